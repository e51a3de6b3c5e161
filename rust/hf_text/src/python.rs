//! What chat templates expect of Python beyond the engine's own compatibility layer.

use minijinja::value::{from_args, Kwargs, Rest, Tuple, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};

pub fn install(env: &mut Environment) {
    env.set_formatter(format);
    env.set_unknown_method_callback(method);
    env.add_filter("tojson", crate::json::tojson);
    env.add_filter("string", |state: &State, value: &Value| {
        match value.as_str() {
            Some(_) => Ok(value.clone()),
            None => display(state, value).map(Value::from),
        }
    });
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.add_filter("e", escape);
    env.add_filter("escape", escape);
    env.add_filter("wordcount", |text: &str| text.split_whitespace().count());
    env.add_filter(crate::guard::ADDED, |state: &State, value: &Value| {
        if is_list(value) {
            state.consume_fuel(value.len().unwrap_or(0) as u64)?;
        }
        Ok::<Value, Error>(value.clone())
    });
    env.add_filter(crate::guard::WRITTEN, |state: &State, value: &Value| {
        text_of(state, value)
    });
    env.add_filter("join", join);
    env.add_filter("indent", indent);
    use minijinja::filters as f;
    for (name, filter) in [
        ("upper", Value::from_function(f::upper)),
        ("lower", Value::from_function(f::lower)),
        ("title", Value::from_function(f::title)),
        ("capitalize", Value::from_function(f::capitalize)),
        ("trim", Value::from_function(f::trim)),
        ("replace", Value::from_function(f::replace)),
        ("split", Value::from_function(f::split)),
        ("lines", Value::from_function(f::lines)),
        ("format", Value::from_function(f::format)),
        ("safe", Value::from_function(f::safe)),
    ] {
        env.add_filter(
            name,
            move |state: &mut State, values: Rest<Value>, kwargs: Kwargs| {
                let mut args = texts_of(state, &values)?;
                if kwargs.args().next().is_some() {
                    args.push(Value::from(kwargs));
                }
                filter.call(state, &args)
            },
        );
    }
    for test in ["startingwith", "endingwith", "containing"] {
        env.remove_test(test);
    }
    env.add_filter(crate::guard::REPEATED, |value: &Value| {
        if is_list(value) {
            return Err(invalid("lists can't be repeated"));
        }
        Ok(value.clone())
    });
    // Jinja's tests look at Python's protocols: a string and a mapping have a length and items.
    env.add_test("sequence", |v: &Value| {
        v.is_undefined()
            || matches!(
                v.kind(),
                ValueKind::Seq | ValueKind::String | ValueKind::Map
            )
    });
    env.add_test("iterable", |v: &Value| {
        v.is_undefined()
            || matches!(
                v.kind(),
                ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable
            )
    });
    env.add_test("callable", |v: &Value| v.kind() == ValueKind::Plain);
    env.add_test("boolean", |v: &Value| v.kind() == ValueKind::Bool);
    env.add_test("float", |v: &Value| v.is_number() && !v.is_integer());
    env.add_function("dict", dict);
}

// A value as the engine's string functions take it: lists and the like already as text, which
// pays as it grows; everything else as it is.
fn text_of(state: &State, value: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Map => display(state, value).map(Value::from),
        ValueKind::Number if !value.is_integer() => display(state, value).map(Value::from),
        ValueKind::Iterable => {
            let items: Result<Vec<Value>, Error> = value
                .try_iter()?
                .checked()
                .map(|item| state.consume_fuel(1).and(item))
                .collect();
            display(state, &Value::from(items?)).map(Value::from)
        }
        _ => Ok(value.clone()),
    }
}

fn texts_of(state: &State, values: &[Value]) -> Result<Vec<Value>, Error> {
    let convert = |value: &Value| match value.kind() {
        ValueKind::Number => Ok(value.clone()),
        _ => text_of(state, value),
    };
    values.iter().map(convert).collect()
}

fn join(
    state: &State,
    value: &Value,
    separator: Option<Value>,
    attribute: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let separator = separator.or(kwargs.get("d")?);
    let attribute = attribute.or(kwargs.get("attribute")?);
    kwargs.assert_all_used()?;
    let separator = match separator {
        Some(separator) => text_of(state, &separator)?.to_string(),
        None => String::new(),
    };
    if value.is_undefined() {
        return Ok(Value::from(""));
    }
    let mut out = String::new();
    for (i, item) in value.try_iter()?.checked().enumerate() {
        let mut item = item?;
        if let Some(path) = &attribute {
            item = match path.as_str() {
                Some(path) => {
                    path.split('.')
                        .try_fold(item, |item, name| match name.parse::<usize>() {
                            Ok(index) => item.get_item_by_index(index),
                            Err(_) => item.get_attr(name),
                        })?
                }
                None => item.get_item(path)?,
            };
        }
        if i > 0 {
            out.push_str(&separator);
        }
        let text = text_of(state, &item)?;
        let before = out.len();
        match text.as_str() {
            Some(text) => out.push_str(text),
            None => out.push_str(&text.to_string()),
        }
        state.consume_fuel((out.len() - before + separator.len()) as u64 / 64 + 1)?;
    }
    Ok(Value::from(out))
}

fn indent(
    state: &State,
    text: &Value,
    options: Rest<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let option = |i: usize, name: &str| -> Result<Option<Value>, Error> {
        match options.get(i) {
            Some(value) => Ok(Some(value.clone())),
            None => kwargs.get(name),
        }
    };
    let width = option(0, "width")?;
    let first = option(1, "first")?.is_some_and(|v| v.is_true());
    let blank = option(2, "blank")?.is_some_and(|v| v.is_true());
    kwargs.assert_all_used()?;
    let margin = match width {
        None => "    ".to_string(),
        Some(width) => match width.as_str() {
            Some(text) => text.to_string(),
            None => {
                let width = i64::try_from(width)?;
                if width > 9999 {
                    return Err(invalid("indent: a width of more than 9999"));
                }
                " ".repeat(usize::try_from(width).unwrap_or(0))
            }
        },
    };
    let text = text_of(state, text)?.to_string();
    let mut out = String::new();
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if if i == 0 {
            first
        } else {
            blank || !line.is_empty()
        } {
            state.consume_fuel(margin.len() as u64 / 64 + 1)?;
            out.push_str(&margin);
        }
        out.push_str(line);
    }
    Ok(Value::from(out))
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

// str() of a value.
pub fn display(state: &State, value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Number => Ok(crate::json::number(value, false)),
        ValueKind::Seq | ValueKind::Map => {
            let mut out = String::new();
            repr(state, value, 0, &mut out)?;
            Ok(out)
        }
        _ => Ok(value.to_string()),
    }
}

// repr() of a value. Parts may be shared many times over, so the output pays as it grows.
fn repr(state: &State, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > 200 {
        return Err(invalid("a value is nested too deeply"));
    }
    state.consume_fuel(1)?;
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Number => out.push_str(&crate::json::number(value, false)),
        ValueKind::String => string_repr(state, value.as_str().unwrap_or(""), out)?,
        ValueKind::Seq => {
            let tuple = value.is_tuple();
            out.push(if tuple { '(' } else { '[' });
            let mut count = 0;
            for item in value.try_iter()?.checked() {
                if count > 0 {
                    out.push_str(", ");
                }
                count += 1;
                repr(state, &item?, depth + 1, out)?;
            }
            out.push_str(match (tuple, count) {
                (true, 1) => ",)",
                (true, _) => ")",
                _ => "]",
            });
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                if i > 0 {
                    out.push_str(", ");
                }
                repr(state, &key, depth + 1, out)?;
                out.push_str(": ");
                repr(state, &value.get_item(&key)?, depth + 1, out)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

fn string_repr(state: &State, text: &str, out: &mut String) -> Result<(), Error> {
    state.consume_fuel((text.len() / 64) as u64)?;
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || (0x7F..0xA1).contains(&(c as u32)) || c == '\u{AD}' => {
                out.push_str(&format!("\\x{:02x}", c as u32))
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    Ok(())
}

fn format(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let own = match value.kind() {
        ValueKind::Number => !value.is_integer(),
        ValueKind::Seq | ValueKind::Map => true,
        _ => false,
    };
    if own {
        out.write_str(&display(state, value)?)
            .map_err(|_| Error::new(ErrorKind::WriteFailure, "could not write"))
    } else {
        minijinja::escape_formatter(out, state, value)
    }
}

fn int(value: &Value, default: Option<Value>, base: Option<u32>) -> Value {
    let default = || default.clone().unwrap_or_else(|| Value::from(0));
    match value.kind() {
        ValueKind::Bool => Value::from(value.is_true() as i64),
        ValueKind::Number if value.is_integer() => value.clone(),
        ValueKind::Number => f64::try_from(value.clone())
            .ok()
            .filter(|x| x.is_finite())
            .map_or_else(default, |x| Value::from(x as i128)),
        ValueKind::String => {
            let text = value.as_str().unwrap_or("").trim().replace('_', "");
            let base = base.filter(|b| (2..=36).contains(b)).unwrap_or(10);
            i128::from_str_radix(&text, base)
                .ok()
                .or_else(|| {
                    text.parse::<f64>()
                        .ok()
                        .filter(|x| x.is_finite())
                        .map(|x| x as i128)
                })
                .map_or_else(default, Value::from)
        }
        _ => default(),
    }
}

fn float(value: &Value, default: Option<Value>) -> Value {
    let default = || default.clone().unwrap_or_else(|| Value::from(0.0));
    match value.kind() {
        ValueKind::Bool => Value::from(value.is_true() as i64 as f64),
        ValueKind::Number => f64::try_from(value.clone()).map_or_else(|_| default(), Value::from),
        ValueKind::String => {
            let text = value.as_str().unwrap_or("").trim();
            text.parse::<f64>().map_or_else(|_| default(), Value::from)
        }
        _ => default(),
    }
}

fn escape(state: &State, value: &Value) -> Result<String, Error> {
    let text = display(state, value)?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn dict(positional: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let mut pairs: Vec<(Value, Value)> = Vec::new();
    if let Some(from) = positional.filter(|v| !v.is_undefined()) {
        for item in from.try_iter()?.checked() {
            let item = item?;
            pairs.push(match from.kind() {
                ValueKind::Map => {
                    let value = from.get_item(&item)?;
                    (item, value)
                }
                _ => (item.get_item_by_index(0)?, item.get_item_by_index(1)?),
            });
        }
    }
    for name in kwargs.args() {
        pairs.push((Value::from(name), kwargs.get(name)?));
    }
    kwargs.assert_all_used()?;
    Ok(Value::from_pairs(pairs))
}

fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let (ValueKind::String, Some(s)) = (value.kind(), value.as_str()) {
        if name == "join" {
            let (items,): (&Value,) = from_args(args)?;
            for item in items.try_iter()?.checked() {
                if item?.kind() != ValueKind::String {
                    return Err(invalid("join: an item is not a text"));
                }
            }
            return join(
                state,
                items,
                Some(value.clone()),
                None,
                Kwargs::from_iter(Vec::<(String, Value)>::new()),
            );
        }
        if name == "format" {
            check_format(s)?;
            let args = format_args(state, args)?;
            return minijinja_contrib::pycompat::unknown_method_callback(state, value, name, &args);
        }
        if let Some(result) = string_method(state, s, name, args) {
            return result;
        }
    }
    if value.kind() == ValueKind::Seq && name == "index" {
        let (what,): (&Value,) = from_args(args)?;
        for (i, item) in value.try_iter()?.checked().enumerate() {
            if item? == *what {
                return Ok(Value::from(i));
            }
        }
        return Err(invalid("list.index: the value is not in the list"));
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

// str.format() pads to any width before it pays.
fn check_format(format: &str) -> Result<(), Error> {
    let mut digits = 0;
    let mut spec = false;
    for c in format.chars() {
        digits = if c.is_ascii_digit() { digits + 1 } else { 0 };
        match c {
            ':' => spec = true,
            '}' => spec = false,
            '{' if spec => return Err(invalid("format: a field inside a field")),
            _ => {}
        }
        if digits > 4 {
            return Err(invalid("format: a number of more than four digits"));
        }
    }
    Ok(())
}

fn format_args(state: &State, args: &[Value]) -> Result<Vec<Value>, Error> {
    let convert = |value: &Value| {
        if !value.is_kwargs() {
            return Ok(texts_of(state, std::slice::from_ref(value))?.remove(0));
        }
        let kwargs = Kwargs::try_from(value.clone())?;
        let names: Vec<String> = kwargs.args().map(str::to_string).collect();
        let mut pairs = Vec::new();
        for name in names {
            let value: Value = kwargs.get(&name)?;
            pairs.push((name, texts_of(state, &[value])?.remove(0)));
        }
        Ok(Value::from(Kwargs::from_iter(pairs)))
    };
    args.iter().map(convert).collect()
}

fn invalid(text: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, text)
}

// Python's str.strip() takes what str.isspace() says; Rust lacks four separators there.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn string_method(
    state: &State,
    s: &str,
    name: &str,
    args: &[Value],
) -> Option<Result<Value, Error>> {
    let tuple = |a: &str, b: &str, c: &str| {
        Value::from(Tuple::from([
            Value::from(a),
            Value::from(b),
            Value::from(c),
        ]))
    };
    let run = || -> Result<Value, Error> {
        Ok(match name {
            "strip" | "lstrip" | "rstrip" => {
                let (chars,): (Option<Value>,) = from_args(args)?;
                let chars: Option<Vec<char>> = chars
                    .filter(|v| !v.is_none())
                    .map(|v| v.as_str().unwrap_or("").chars().collect());
                let cut = |c: char| {
                    chars
                        .as_ref()
                        .map_or_else(|| is_space(c), |l| l.contains(&c))
                };
                Value::from(match name {
                    "strip" => s.trim_matches(cut),
                    "lstrip" => s.trim_start_matches(cut),
                    _ => s.trim_end_matches(cut),
                })
            }
            "removeprefix" => {
                let (prefix,): (&str,) = from_args(args)?;
                Value::from(s.strip_prefix(prefix).unwrap_or(s))
            }
            "removesuffix" => {
                let (suffix,): (&str,) = from_args(args)?;
                Value::from(s.strip_suffix(suffix).unwrap_or(s))
            }
            "partition" | "rpartition" => {
                let (separator,): (&str,) = from_args(args)?;
                if separator.is_empty() {
                    return Err(invalid("empty separator"));
                }
                let first = name == "partition";
                let at = if first {
                    s.find(separator)
                } else {
                    s.rfind(separator)
                };
                match at {
                    Some(i) => tuple(&s[..i], separator, &s[i + separator.len()..]),
                    None if first => tuple(s, "", ""),
                    None => tuple("", "", s),
                }
            }
            "rsplit" => {
                let (separator, limit, kwargs): (Option<Value>, Option<i64>, Kwargs) =
                    from_args(args)?;
                let limit = limit.or(kwargs.get("maxsplit")?);
                let separator = separator.or(kwargs.get("sep")?).filter(|v| !v.is_none());
                rsplit(
                    s,
                    separator.as_ref().and_then(Value::as_str),
                    limit.unwrap_or(-1),
                )?
            }
            "index" => {
                let (what,): (&str,) = from_args(args)?;
                let at = s.find(what).ok_or_else(|| invalid("substring not found"))?;
                Value::from(s[..at].chars().count())
            }
            "casefold" => {
                let () = from_args(args)?;
                Value::from(s.to_lowercase())
            }
            "title" => {
                let () = from_args(args)?;
                let mut inside = false;
                let mut out = String::with_capacity(s.len());
                for c in s.chars() {
                    if inside {
                        out.extend(c.to_lowercase());
                    } else {
                        out.extend(c.to_uppercase());
                    }
                    inside = c.is_alphabetic();
                }
                Value::from(out)
            }
            "swapcase" => {
                let () = from_args(args)?;
                let flip = |c: char| -> String {
                    if c.is_uppercase() {
                        c.to_lowercase().collect()
                    } else {
                        c.to_uppercase().collect()
                    }
                };
                Value::from(s.chars().map(flip).collect::<String>())
            }
            "ljust" | "rjust" | "center" | "zfill" => {
                let (width, fill): (i64, Option<&str>) = from_args(args)?;
                let have = s.chars().count();
                let missing = usize::try_from(width).unwrap_or(0).saturating_sub(have);
                state.consume_fuel((missing / 16) as u64)?;
                let fill = if name == "zfill" {
                    "0"
                } else {
                    fill.unwrap_or(" ")
                };
                if fill.chars().count() != 1 {
                    return Err(invalid("the fill must be one character"));
                }
                let left = match name {
                    "ljust" => 0,
                    "center" => missing / 2 + (missing & usize::try_from(width).unwrap_or(0) & 1),
                    _ => missing,
                };
                let (sign, digits) = match s.strip_prefix(['-', '+']) {
                    Some(digits) if name == "zfill" => s.split_at(s.len() - digits.len()),
                    _ => ("", s),
                };
                let mut out = String::from(sign);
                out.push_str(&fill.repeat(left));
                out.push_str(digits);
                out.push_str(&fill.repeat(missing - left));
                Value::from(out)
            }
            _ => return Err(Error::from(ErrorKind::UnknownMethod)),
        })
    };
    const OWN: [&str; 16] = [
        "strip",
        "lstrip",
        "rstrip",
        "removeprefix",
        "removesuffix",
        "partition",
        "rpartition",
        "rsplit",
        "index",
        "casefold",
        "swapcase",
        "ljust",
        "rjust",
        "center",
        "zfill",
        "title",
    ];
    OWN.contains(&name).then(run)
}

fn rsplit(s: &str, separator: Option<&str>, limit: i64) -> Result<Value, Error> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut parts: Vec<&str> = Vec::new();
    let mut rest = s;
    match separator {
        Some("") => return Err(invalid("empty separator")),
        Some(separator) => {
            while parts.len() < limit {
                let Some(at) = rest.rfind(separator) else {
                    break;
                };
                parts.push(&rest[at + separator.len()..]);
                rest = &rest[..at];
            }
            parts.push(rest);
        }
        None => loop {
            rest = rest.trim_end_matches(is_space);
            if rest.is_empty() {
                break;
            }
            if parts.len() == limit {
                parts.push(rest);
                break;
            }
            let (at, width) = rest
                .char_indices()
                .rfind(|&(_, c)| is_space(c))
                .map_or((0, 0), |(i, c)| (i, c.len_utf8()));
            parts.push(&rest[at + width..]);
            rest = &rest[..at];
        },
    }
    parts.reverse();
    Ok(Value::from(
        parts.into_iter().map(Value::from).collect::<Vec<_>>(),
    ))
}
