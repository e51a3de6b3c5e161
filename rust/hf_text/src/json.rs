//! `tojson` as transformers defines it: Python's json.dumps.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// The options of json.dumps that transformers lets through, by position or by name.
pub fn tojson(
    state: &State,
    value: &Value,
    positional: Rest<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    const NAMES: [&str; 4] = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let mut given: [Option<Value>; 4] = Default::default();
    if positional.len() > NAMES.len() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    for (place, option) in given.iter_mut().zip(positional.iter()) {
        *place = Some(option.clone());
    }
    for (place, name) in given.iter_mut().zip(NAMES) {
        if kwargs.has(name) {
            *place = Some(kwargs.get(name)?);
        }
    }
    kwargs.assert_all_used()?;
    let [ensure_ascii, indent, separators, sort_keys] = given;
    let is_set = |v: Option<Value>| v.is_some_and(|v| v.is_true());

    let indent = match indent.filter(|v| !v.is_none() && !v.is_undefined()) {
        None => None,
        Some(v) => Some(match v.as_str() {
            Some(text) => text.to_string(),
            None => " ".repeat(v.as_i64().unwrap_or(0).clamp(0, 256) as usize),
        }),
    };
    let (item, key) = match separators.filter(|v| !v.is_none() && !v.is_undefined()) {
        None if indent.is_some() => (",".to_string(), ": ".to_string()),
        None => (", ".to_string(), ": ".to_string()),
        Some(v) => (
            v.get_item_by_index(0)?.to_string(),
            v.get_item_by_index(1)?.to_string(),
        ),
    };
    let mut writer = Writer {
        state,
        out: String::new(),
        paid: 0,
        ensure_ascii: is_set(ensure_ascii),
        sort_keys: is_set(sort_keys),
        indent,
        item,
        key,
    };
    writer.value(value, 0)?;
    Ok(Value::from(writer.out))
}

struct Writer<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    out: String,
    paid: usize,
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item: String,
    key: String,
}

const MAX_DEPTH: usize = 200;

impl Writer<'_, '_, '_> {
    // Shared parts make a small value a huge text, so the output pays as it grows.
    fn pay(&mut self) -> Result<(), Error> {
        self.state.consume_fuel(1)?;
        let owed = self.out.len() - self.paid;
        if owed >= 4096 {
            self.paid = self.out.len();
            self.state.consume_fuel((owed / 64) as u64)?;
        }
        Ok(())
    }

    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.pay()?;
        if depth > MAX_DEPTH {
            return Err(Error::new(
                ErrorKind::BadSerialization,
                "tojson: nested too deeply",
            ));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self
                .out
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value, true)),
            ValueKind::String => {
                let text = value.as_str().unwrap_or("");
                self.state.consume_fuel((text.len() / 64) as u64)?;
                self.string(text);
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let mut first = true;
                for item in value.try_iter()?.checked() {
                    let item = item?;
                    self.out.push_str(if first { "[" } else { &self.item });
                    first = false;
                    self.line(depth + 1);
                    self.value(&item, depth + 1)?;
                }
                self.close(first, "[]", "]", depth);
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = Vec::new();
                for key in value.try_iter()?.checked() {
                    keys.push(key?);
                }
                if self.sort_keys {
                    keys.sort();
                }
                let empty = keys.is_empty();
                for (i, key) in keys.into_iter().enumerate() {
                    self.out.push_str(if i == 0 { "{" } else { &self.item });
                    self.line(depth + 1);
                    match key.kind() {
                        ValueKind::String => self.string(key.as_str().unwrap_or("")),
                        ValueKind::None => self.out.push_str("\"null\""),
                        ValueKind::Bool if key.is_true() => self.out.push_str("\"true\""),
                        ValueKind::Bool => self.out.push_str("\"false\""),
                        ValueKind::Number => {
                            let text = number(&key, true);
                            self.string(&text);
                        }
                        kind => {
                            return Err(Error::new(
                                ErrorKind::BadSerialization,
                                format!("tojson: a key may not be a {kind}"),
                            ))
                        }
                    }
                    self.out.push_str(&self.key);
                    let item = value.get_item(&key)?;
                    self.value(&item, depth + 1)?;
                }
                self.close(empty, "{}", "}", depth);
            }
            kind => {
                return Err(Error::new(
                    ErrorKind::BadSerialization,
                    format!("tojson: a value of type {kind} can't be written as JSON"),
                ))
            }
        }
        Ok(())
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            for _ in 0..depth {
                self.out.push_str(indent);
            }
        }
    }

    fn close(&mut self, empty: bool, both: &str, end: &str, depth: usize) {
        if empty {
            self.out.push_str(both);
        } else {
            self.line(depth);
            self.out.push_str(end);
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ensure_ascii && (c as u32) > 0x7E) => {
                    let mut units = [0u16; 2];
                    for unit in c.encode_utf16(&mut units) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A number as Python prints it; `json` spells the special ones as json.dumps does.
pub fn number(value: &Value, json: bool) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(x) => float(x, json),
        Err(_) => value.to_string(),
    }
}

/// repr() of a Python float: the shortest digits that read back, with an exponent below 1e-4 and
/// from 1e16 on.
fn float(x: f64, json: bool) -> String {
    if x.is_nan() {
        return if json { "NaN" } else { "nan" }.into();
    }
    if x.is_infinite() {
        let text = if json { "Infinity" } else { "inf" };
        return if x < 0.0 {
            format!("-{text}")
        } else {
            text.into()
        };
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if x != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{x}");
    if plain.contains('.') {
        plain
    } else {
        plain + ".0"
    }
}
