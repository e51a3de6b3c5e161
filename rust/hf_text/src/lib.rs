//! Tokenizers and chat templates for hone, as a handful of C functions.
//!
//! Conventions: text goes in as pointer and length and need not end with a zero byte; results come
//! out as a `Buffer` the caller hands back to `hft_free`. A function returns 0 when it worked; any
//! other value means that the buffer holds the message of an error instead. No panic crosses the
//! boundary. Handles are immutable and may be used by many threads at once.

mod expression;
mod generation;
mod guard;
mod json;
mod python;
mod special;
mod template;
mod tokenizer;
mod train;

use std::panic::{catch_unwind, AssertUnwindSafe};

/// Bytes owned by the caller.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Slice {
    data: *const u8,
    len: usize,
}

impl Slice {
    unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.len == 0 {
            &[]
        } else {
            unsafe { std::slice::from_raw_parts(self.data, self.len) }
        }
    }

    unsafe fn text<'a>(self) -> Result<&'a str, String> {
        std::str::from_utf8(unsafe { self.bytes() })
            .map_err(|e| format!("not valid UTF-8 at byte {}", e.valid_up_to()))
    }
}

/// Bytes owned by this library until `hft_free`.
#[repr(C)]
pub struct Buffer {
    data: *mut u8,
    len: usize,
}

impl Buffer {
    fn from(bytes: Vec<u8>) -> Buffer {
        let boxed = bytes.into_boxed_slice();
        let len = boxed.len();
        Buffer {
            data: Box::into_raw(boxed) as *mut u8,
            len,
        }
    }
}

// A panic becomes an error with its text; the default report would be printed besides.
static QUIET: std::sync::Once = std::sync::Once::new();

fn guarded(out: *mut Buffer, f: impl FnOnce() -> Result<Vec<u8>, String>) -> i32 {
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    let result = catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()))
            .unwrap_or_default();
        Err(format!("the text library failed: {text}"))
    });
    let (code, bytes) = match result {
        Ok(bytes) => (0, bytes),
        Err(message) => (1, message.into_bytes()),
    };
    unsafe { out.write(Buffer::from(bytes)) };
    code
}

fn as_bytes<T: Copy>(values: &[T]) -> Vec<u8> {
    let data = values.as_ptr() as *const u8;
    unsafe { std::slice::from_raw_parts(data, std::mem::size_of_val(values)) }.to_vec()
}

/// Frees what a function of this library wrote into a `Buffer`.
///
/// # Safety
/// `buffer` comes from this library and is freed once.
#[no_mangle]
pub unsafe extern "C" fn hft_free(buffer: Buffer) {
    drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(buffer.data, buffer.len)) });
}

/// Reads the texts of tokenizer.json, tokenizer_config.json and special_tokens_map.json (the last
/// two may be empty). `out`: roles and table of tokens (see `tokenizer::load`).
///
/// # Safety
/// The texts are readable; `handle` and `out` are writable.
#[no_mangle]
pub unsafe extern "C" fn hft_tokenizer_new(
    json: Slice,
    config: Slice,
    special_tokens_map: Slice,
    handle: *mut *mut tokenizer::HfTokenizer,
    out: *mut Buffer,
) -> i32 {
    guarded(out, || {
        let texts = unsafe { [json.text(), config.text(), special_tokens_map.text()] };
        let [json, config, map] = texts;
        let (tokenizer, table) = tokenizer::load(json?, config?, map?)?;
        unsafe { handle.write(Box::into_raw(Box::new(tokenizer))) };
        Ok(table)
    })
}

/// # Safety
/// `handle` comes from `hft_tokenizer_new` and is freed once.
#[no_mangle]
pub unsafe extern "C" fn hft_tokenizer_free(handle: *mut tokenizer::HfTokenizer) {
    drop(unsafe { Box::from_raw(handle) });
}

/// Tokenises `n` texts. `out`: the ids of all texts as u32, one text after the other;
/// `counts[i]`: how many of them are of text i.
///
/// # Safety
/// `texts` and `counts` have `n` entries.
#[no_mangle]
pub unsafe extern "C" fn hft_encode(
    handle: *const tokenizer::HfTokenizer,
    texts: *const Slice,
    n: usize,
    add_special_tokens: bool,
    counts: *mut u64,
    out: *mut Buffer,
) -> i32 {
    guarded(out, || {
        let mut ids = Vec::new();
        for i in 0..n {
            let text = unsafe { (*texts.add(i)).text() }?;
            let before = ids.len();
            unsafe { &*handle }.encode(text, add_special_tokens, &mut ids)?;
            unsafe { counts.add(i).write((ids.len() - before) as u64) };
        }
        Ok(as_bytes(&ids))
    })
}

/// # Safety
/// `ids` has `n` entries.
#[no_mangle]
pub unsafe extern "C" fn hft_decode(
    handle: *const tokenizer::HfTokenizer,
    ids: *const u32,
    n: usize,
    skip_special_tokens: bool,
    out: *mut Buffer,
) -> i32 {
    guarded(out, || {
        let ids = if n == 0 {
            &[]
        } else {
            unsafe { std::slice::from_raw_parts(ids, n) }
        };
        unsafe { &*handle }.decode(ids, skip_special_tokens)
    })
}

/// Trains a byte-level BPE. `options`: JSON (see `train::train`). `out`: a tokenizer.json.
///
/// # Safety
/// `texts` has `n` entries.
#[no_mangle]
pub unsafe extern "C" fn hft_train_bpe(
    texts: *const Slice,
    n: usize,
    options: Slice,
    out: *mut Buffer,
) -> i32 {
    guarded(out, || {
        let texts: Result<Vec<&str>, String> =
            (0..n).map(|i| unsafe { (*texts.add(i)).text() }).collect();
        train::train(&texts?, unsafe { options.text() }?).map(String::into_bytes)
    })
}

/// Compiles a template. `has_generation`: 1 if it has {% generation %} blocks.
///
/// # Safety
/// `source` is readable; the others are writable.
#[no_mangle]
pub unsafe extern "C" fn hft_template_new(
    source: Slice,
    handle: *mut *mut template::ChatTemplate,
    has_generation: *mut i32,
    out: *mut Buffer,
) -> i32 {
    guarded(out, || {
        let compiled = template::ChatTemplate::new(unsafe { source.text() }?)?;
        unsafe { has_generation.write(compiled.has_generation() as i32) };
        unsafe { handle.write(Box::into_raw(Box::new(compiled))) };
        Ok(Vec::new())
    })
}

/// # Safety
/// `handle` comes from `hft_template_new` and is freed once.
#[no_mangle]
pub unsafe extern "C" fn hft_template_free(handle: *mut template::ChatTemplate) {
    drop(unsafe { Box::from_raw(handle) });
}

/// One rendering asked for: the first `count` messages.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Prefix {
    count: u64,
    add_generation_prompt: i32,
}

/// Writes the time `now` by a strftime format into `out`; returns the number of bytes.
pub type Strftime = extern "C" fn(
    now: i64,
    format: *const u8,
    format_len: usize,
    out: *mut u8,
    cap: usize,
) -> usize;

/// Renders beginnings of one conversation. `messages`: a JSON array; `variables`: a JSON object of
/// what else the template sees. `out`: for each prefix u64 ok, u64 length, the text (or the message
/// of the error), u64 number of spans, and u64 begin and end of each.
///
/// # Safety
/// `prefixes` has `n` entries.
#[no_mangle]
pub unsafe extern "C" fn hft_template_render(
    handle: *const template::ChatTemplate,
    messages: Slice,
    variables: Slice,
    now: i64,
    strftime: Strftime,
    prefixes: *const Prefix,
    n: usize,
    out: *mut Buffer,
) -> i32 {
    guarded(out, || {
        let prefixes = unsafe { std::slice::from_raw_parts(prefixes, n) };
        let template = unsafe { &*handle };
        let clock = template::Clock { now, strftime };
        let messages = unsafe { messages.text() }?;
        let conversation = template.conversation(messages, unsafe { variables.text() }?, clock)?;
        let mut bytes = Vec::with_capacity(n * (messages.len() + 256));
        for prefix in prefixes {
            let count = usize::try_from(prefix.count).map_err(|e| e.to_string())?;
            let rendered = conversation.render(count, prefix.add_generation_prompt != 0);
            let (ok, text, spans) = match &rendered {
                Ok(r) => (1u64, &r.text, r.spans.as_slice()),
                Err(message) => (0u64, message, &[][..]),
            };
            bytes.extend_from_slice(&ok.to_ne_bytes());
            bytes.extend_from_slice(&(text.len() as u64).to_ne_bytes());
            bytes.extend_from_slice(text.as_bytes());
            bytes.extend_from_slice(&(spans.len() as u64).to_ne_bytes());
            for (begin, end) in spans {
                bytes.extend_from_slice(&begin.to_ne_bytes());
                bytes.extend_from_slice(&end.to_ne_bytes());
            }
        }
        Ok(bytes)
    })
}

/// Compiles a regular expression (see `expression`). `out`: empty.
///
/// # Safety
/// `pattern` is readable; `handle` and `out` are writable.
#[no_mangle]
pub unsafe extern "C" fn hft_expression_new(
    pattern: Slice,
    handle: *mut *mut expression::Expression,
    out: *mut Buffer,
) -> i32 {
    guarded(out, || {
        let compiled = expression::Expression::new(unsafe { pattern.text() }?)?;
        unsafe { handle.write(Box::into_raw(Box::new(compiled))) };
        Ok(Vec::new())
    })
}

/// # Safety
/// `handle` comes from `hft_expression_new` and is freed once.
#[no_mangle]
pub unsafe extern "C" fn hft_expression_free(handle: *mut expression::Expression) {
    drop(unsafe { Box::from_raw(handle) });
}

/// Whether the expression matches the whole text: 1 or 0. Text that isn't UTF-8 matches nothing.
///
/// # Safety
/// `handle` comes from `hft_expression_new`; `text` is readable.
#[no_mangle]
pub unsafe extern "C" fn hft_expression_matches(
    handle: *const expression::Expression,
    text: Slice,
) -> i32 {
    let matches = || unsafe { text.text() }.is_ok_and(|t| unsafe { &*handle }.matches_whole(t));
    catch_unwind(AssertUnwindSafe(matches)).unwrap_or(false) as i32
}
