//! Chat templates: transformers' Jinja environment over minijinja, with limits.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, State, Value};

use crate::generation::{self, Marks};

// A budget pays for instructions and, at 64 bytes a unit, for all data a rendering makes; so it
// bounds both time (about 0.1 s) and memory (about 128 MiB). Large inputs get more.
const FUEL: u64 = 2_000_000;
const LARGE_INPUT: usize = 1 << 20;
const MAX_SOURCE: usize = 4 << 20;
const NAME: &str = "chat template";
const RAISED: &str = "\u{1}raise_exception\u{1}";

pub struct ChatTemplate {
    env: Environment<'static>,
    has_generation: bool,
}

#[derive(Clone, Copy)]
pub struct Clock {
    pub now: i64,
    pub strftime: crate::Strftime,
}

pub struct Rendered {
    pub text: String,
    pub spans: Vec<(u64, u64)>,
}

impl ChatTemplate {
    pub fn new(source: &str) -> Result<ChatTemplate, String> {
        if source.len() > MAX_SOURCE {
            return Err(format!(
                "it has {} bytes; at most {MAX_SOURCE} are read",
                source.len()
            ));
        }
        let mut env = Environment::new();
        env.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .keep_trailing_newline(false)
                .build()
                .map_err(|e| e.to_string())?,
        );
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        env.set_recursion_limit(100);
        env.set_fuel(Some(FUEL));
        crate::python::install(&mut env);
        env.add_function("raise_exception", raise_exception);
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let (rewritten, has_generation) = generation::rewrite(&source)?;
        env.add_template_owned(NAME, rewritten)
            .map_err(|e| describe(&e))?;
        Ok(ChatTemplate {
            env,
            has_generation,
        })
    }

    pub fn has_generation(&self) -> bool {
        self.has_generation
    }

    /// messages: a JSON array of objects; variables: a JSON object.
    pub fn conversation(
        &self,
        messages: &str,
        variables: &str,
        clock: Clock,
    ) -> Result<Conversation, String> {
        let not_json = |e: serde_json::Error| format!("the conversation is no proper JSON: {e}");
        let list: Vec<Value> = serde_json::from_str(messages).map_err(not_json)?;
        let variables_value: Value = serde_json::from_str(variables).map_err(not_json)?;
        let mut context: Vec<(Value, Value)> = Vec::new();
        for name in variables_value.try_iter().map_err(|e| e.to_string())? {
            let value = variables_value.get_item(&name).map_err(|e| e.to_string())?;
            context.push((name, value));
        }
        let marks = if self.has_generation {
            Some(
                Marks::unused_in(&[messages, variables])
                    .ok_or("the conversation contains noncharacters that templates may not see")?,
            )
        } else {
            None
        };
        let mut env = self.env.clone();
        let input = messages.len() + variables.len();
        if input > LARGE_INPUT {
            env.set_fuel(Some(FUEL + input as u64));
        }
        env.add_function(
            "strftime_now",
            move |format: &str| -> Result<String, Error> {
                let mut out = vec![0u8; 256 + 16 * format.len().min(256)];
                let n = (clock.strftime)(
                    clock.now,
                    format.as_ptr(),
                    format.len(),
                    out.as_mut_ptr(),
                    out.len(),
                );
                out.truncate(n);
                String::from_utf8(out)
                    .map_err(|_| Error::new(ErrorKind::InvalidOperation, "strftime_now: not UTF-8"))
            },
        );
        if let Some(marks) = marks {
            env.add_function(
                generation::FUNCTION,
                move |state: &mut State, kwargs: Kwargs| -> Result<String, Error> {
                    let caller: Value = kwargs.get("caller")?;
                    let text = caller.call(state, &[])?;
                    Ok(format!("{}{}{}", marks.begin, text, marks.end))
                },
            );
        }
        let messages = list.into_iter().map(with_reasoning).collect();
        Ok(Conversation {
            env,
            context,
            messages,
            marks,
        })
    }
}

/// Reasoning goes by three names; transformers lets a template read it by any of the common ones.
fn with_reasoning(message: Value) -> Value {
    let present = |name: &str| {
        message
            .get_attr(name)
            .ok()
            .filter(|v| !v.is_undefined() && !v.is_none())
    };
    let names = ["reasoning_content", "thinking", "reasoning"];
    let Some(reasoning) = names.iter().find_map(|name| present(name)) else {
        return message;
    };
    let mut pairs = vec![(Value::from("thinking"), reasoning.clone())];
    let mut put = |key: Value, value: Value| match pairs.iter_mut().find(|(k, _)| *k == key) {
        Some(pair) => pair.1 = value,
        None => pairs.push((key, value)),
    };
    if let Ok(keys) = message.try_iter() {
        for key in keys {
            let value = message.get_item(&key).unwrap_or_default();
            put(key, value);
        }
    }
    put(Value::from("reasoning_content"), reasoning);
    Value::from_pairs(pairs)
}

pub struct Conversation {
    env: Environment<'static>,
    context: Vec<(Value, Value)>,
    messages: Vec<Value>,
    marks: Option<Marks>,
}

impl Conversation {
    /// Renders the first `count` messages.
    pub fn render(&self, count: usize, add_generation_prompt: bool) -> Result<Rendered, String> {
        let messages = self
            .messages
            .get(..count)
            .ok_or("there are fewer messages")?;
        let mut context = self.context.clone();
        context.push((Value::from("messages"), Value::from(messages.to_vec())));
        context.push((
            Value::from("add_generation_prompt"),
            Value::from(add_generation_prompt),
        ));
        let template = self.env.get_template(NAME).map_err(|e| describe(&e))?;
        let text = template
            .render(Value::from_pairs(context))
            .map_err(|e| describe(&e))?;
        match self.marks {
            Some(marks) => {
                let (text, spans) = marks.take_out(text)?;
                Ok(Rendered { text, spans })
            }
            None => Ok(Rendered {
                text,
                spans: Vec::new(),
            }),
        }
    }
}

fn raise_exception(state: &State, message: &Value) -> Result<Value, Error> {
    let message = crate::python::display(state, message)?;
    Err(Error::new(
        ErrorKind::InvalidOperation,
        format!("{RAISED}{message}"),
    ))
}

fn describe(error: &Error) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if let Some(e) = e.downcast_ref::<Error>() {
            if let Some((_, message)) = e.detail().and_then(|d| d.split_once(RAISED)) {
                return format!("it refuses the conversation: {message}");
            }
            if e.kind() == ErrorKind::OutOfFuel {
                return "it runs too long or writes too much; it was stopped".to_string();
            }
        }
        cause = e.source();
    }
    let mut text = error.kind().to_string();
    if let Some(detail) = error.detail() {
        text = format!("{text}: {detail}");
    }
    match error.line() {
        Some(line) => format!("line {line}: {text}"),
        None => text,
    }
}

// A template is shared by threads.
const _: fn() = || {
    fn shared<T: Send + Sync>() {}
    shared::<ChatTemplate>();
};
