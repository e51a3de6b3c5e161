#!/usr/bin/env python3
"""Writes tests/fixtures/text/: what transformers' own Jinja environment renders.

pip install transformers jinja2, then: tools/make_text_fixtures.py
Each case is {"template", "messages", "variables", "expected"} or, where Jinja raises, "error".
"""
import json
import pathlib

from transformers.utils.chat_template_utils import render_jinja_template

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "text"

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "  What is 2+3?  "},
    {"role": "assistant", "content": "5\n"},
    {"role": "user", "content": "And <b>'é'</b> \"日本\" & 👍?"},
]
TOOLS = [{
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather <now> & 'then' — ünï",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "a \"city\"\n"},
                "days": {"type": "integer", "default": 3, "enum": [1, 2, 3]},
                "items": {"type": ["array", "null"], "items": {"type": "number"}},
            },
            "required": ["city"],
            "strict": True,
            "extra": None,
            "limit": 1.5,
        },
    },
}]
CALLS = [
    {"role": "user", "content": "weather?"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "id": "call_1234",
         "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2}}}]},
    {"role": "tool", "name": "get_weather", "tool_call_id": "call_1234", "content": "{\"t\": 21.0}"},
    {"role": "assistant", "content": "21 degrees", "reasoning_content": "I see"},
]

CHATS = {"chat": CHAT, "calls": CALLS}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

EXPRESSIONS = r"""
1 + 2.5 ~ 'x' ~ true ~ none
7 // 2, 7 / 2, -7 // 2, 7 % 3, -7 % 3, 2 ** 10, 2 ** -1
1e16, 1e15, 1.0, 0.0001, 0.00001, 1.5e300, 100000000000000000000, 1/3, 2e-7 * 3
[1, 'a', "b'c", none, true, 2.0]
[1, 2.5e20, {'a': 0.00001}]
{'a': 1, 'b': [none, false]}
('x', 1)
('x',)
none
true
undefined_thing
[] or 'empty'
'' or none
0 and 1
not none
'abc'[1], 'abc'[-1], 'abc'[::-1], 'abcdef'[1:4], 'abcdef'[:-2], 'abcdef'[::2]
messages[0].role, messages[-1]['role'], messages[1:]|length, messages[::-1][0].role
messages[99] is defined
messages[0].nothing is defined
messages|length
messages|map(attribute='role')|list
messages|map(attribute='role')|join(', ')
messages|selectattr('role', 'equalto', 'user')|list|length
messages|selectattr('role', '==', 'user')|map(attribute='content')|list
messages|rejectattr('role', 'in', ['user', 'system'])|map(attribute='content')|first
messages|groupby('role')|map('first')|list
messages|first, 'x'
(messages|last)['role']
messages[0]
messages|tojson
messages|tojson(indent=2)
messages|tojson(indent=4, ensure_ascii=true)
messages|tojson(separators=(',', ':'))
{'b': 1, 'a': {'d': 2, 'c': [1, 2, {}], 'e': []}}|tojson(sort_keys=true)
{'b': 1, 'a': {'d': 2, 'c': [1, 2, {}], 'e': []}}|tojson(indent=2, sort_keys=true)
tools|tojson
tools|tojson(indent=4)
tools is none, documents is none, tools is defined
'é'|tojson, 'a/b<c>&\'"'|tojson, '\t\n\u007f'|tojson
1.0|tojson, 1e16|tojson, 1e-7|tojson, 123456789012345678901234567890|tojson, true|tojson, none|tojson
[1.5, 100.0, 1e22]|tojson
tools[0].function.parameters.properties.items()|list|length
tools[0].function.parameters.properties.keys()|list
tools[0].function.parameters.properties.values()|list
tools[0].function.parameters.properties|items|list|length
tools[0].function.parameters.properties|dictsort|map('first')|list
tools[0].function.parameters.properties['items']
tools[0].function.parameters.get('nope', 'dflt'), tools[0].function.parameters.get('nope')
'city' in tools[0].function.parameters.properties, 'x' not in 'abc', 2 in [1, 2]
' a b '.strip() ~ '|' ~ ' a '.lstrip() ~ '|' ~ ' a '.rstrip()
'xxaxx'.strip('x'), 'xya'.lstrip('xy'), 'abc'.rstrip('c')
'a,b,c'.split(','), 'a b  c'.split(), 'a,b,c'.split(',', 1), ''.split(), ''.split(','), ' a '.split(' ')
'a</think>b</think>c'.split('</think>')[-1].lstrip('\n')
'a,b,c'.rsplit(',', 1), 'a b c'.rsplit(None, 1), 'a b c'.rsplit()
'abc'.startswith('ab'), 'abc'.endswith(('x', 'bc')), 'abc'.startswith(('x', 'y'))
'abc'.replace('b', 'xx'), 'aaa'.replace('a', 'b', 2)
'abc'.upper(), 'ABC'.lower(), 'hello world'.title(), 'hELLO'.capitalize()
'a-b'.partition('-'), 'a-b-c'.rpartition('-'), 'ab'.partition('-')
'prefix_x'.removeprefix('prefix_'), 'x_suffix'.removesuffix('_suffix')
'abc'.find('c'), 'abc'.find('z'), 'abcabc'.rfind('c'), 'abc'.index('b'), 'aXbX'.count('X')
'a\nb\r\nc'.splitlines(), 'line\n'.splitlines()
', '.join(['a', 'b']), ''.join(messages|map(attribute='role'))
'12'.isdigit(), 'a1'.isalnum(), 'ab'.isalpha(), ' '.isspace(), 'aB'.islower(), 'AB'.isupper()
'7'.zfill(3), '-7'.zfill(4), 'a'.ljust(3) ~ '|', 'a'.rjust(3, '*'), 'ab'.center(5, '.'), 'a'.center(4, '.'), 'abc'.center(4, '.')
'%05.2f|%-5s|%x' | format(3.14159, 'ab', 255)
'abc'|upper, 'ABC'|lower, 'hello world'|title, 'hello World'|capitalize, ' a '|trim
'a b c'|replace(' ', '-'), 'abc'|length, 'abc'|count, 'cba'|sort, [3, 1, 2]|sort, [3, 1, 2]|sort(reverse=true)
['b', 'A', 'c']|sort, ['b', 'A', 'c']|sort(case_sensitive=true)
[1, 2, 3]|sum, [1, 2, 3]|max, [1, 2, 3]|min, [1, [2]]|string, 'abc'|list, 'abc'|reverse
[1, 2, 3]|reverse|list, [1, 1, 2]|unique|list, [1, 2, 3, 4, 5]|batch(2)|list, [1, 2, 3]|slice(2)|list
'12'|int, '1.5'|float, 'x'|int, 'x'|int(-1), 3.7|int, 3.7|round, 3.14159|round(2), -3|abs, '3'|int + 1
none|default('d'), undefined_thing|default('d'), ''|default('d', true), none|default('d', true)
'<a href="x">'|e
'text\nmore'|indent(4), 'text\nmore'|indent(2, true), 'a\n\nb'|indent(2), 'a\n\nb'|indent(2, blank=true)
{'a': 1}.items()|list, {'a': 1, 'b': 2}|length, {'a': 1, 'b': 2}|list
dict(a=1, b='x'), dict([('k', 2)]), dict({'a': 1}, b=2)
[1, 2] + [3], (1, 2) + (3,), 'a' * 3, 2 * 'ab', 'a' + 'b'
[1, 2] == [1, 2], {'a': 1} == {'a': 1}, 1 == 1.0, 'a' == 1, true == 1, none == false
1 < 2, 'a' < 'b', 1 <= 1 < 2, 3 != 3
'yes' if messages else 'no', 'x' if false
range(3)|list, range(1, 10, 3)|list, range(5, 0, -2)|list
messages is sequence, 'a' is sequence, {} is sequence, 1 is sequence
messages is iterable, 'a' is iterable, {} is iterable, 1 is iterable, none is iterable
messages is mapping, 'a' is mapping, {} is mapping
'a' is string, 1 is string, none is string, [] is string
1 is number, 1.5 is number, '1' is number, true is number
1 is integer, 1.0 is integer, true is integer, 1.0 is float, 1 is float
true is boolean, 1 is boolean, true is true, false is false, 1 is true
none is none, undefined_thing is none, undefined_thing is undefined, none is defined
3 is odd, 4 is even, 9 is divisibleby 3, 'a' is in ['a'], 'abc' is eq 'abc', 1 is lt 2, 'A' is upper, 'a' is lower
messages is callable, raise_exception is callable, 1 is sameas 1, none is sameas none
messages[0].content is string and messages[0].role == 'system'
messages[0].keys()|list, messages[0].get('role'), messages[0]|items|list
[messages[0].role, messages[1].role]
(1, 'a', none)|tojson
[['a', 1], ['b', 2]]|map('first')|list, [{'x': {'y': 1}}]|map(attribute='x.y')|list
['a', 'b']|map('upper')|list, [1, 2, 3, 4]|select('odd')|list, [1, 0, none]|select|list, [1, 2]|reject('eq', 1)|list
'a' ~ 1 ~ 2.0 ~ none ~ true ~ [1, 'x'] ~ {'k': none}
strftime_now('%Y')|length
namespace(a=1).a
'\\n' ~ "\x41" ~ '\u00e9' ~ '\t|'
"it's" ~ 'say "hi"'
["it's", 'say "hi"', 'both \' and "', 'tab\t', 'new\nline', 'é', '\\']
loop is defined
messages.__class__ is defined
''.__class__.__mro__ is defined
(messages|map(attribute='role'))|first
messages|tojson|length
[1,2,3][1:], [1,2,3][-2:], [1,2,3][::-1], (1,2,3)[1:]
not messages, not [], not '', not 0, not 0.0, not {}
1 if 0.0 else 2
-2 ** 2, (-2) ** 2, 2 ** 3 ** 2
"a" "b"
messages|list|length
messages|map('length')|list
'x'.join('abc')
[3,1]|sort|first ~ ([]|first)
messages | selectattr('nope') | list
messages | selectattr('nope', 'defined') | list
messages | selectattr('content', 'string') | list | length
{'a': 1}|tojson|safe
[{'a': 2}, {'a': 1}]|sort(attribute='a')
[{'a': 2}, {'a': 1}]|sum(attribute='a')
[{'a': 2}, {'a': 1}]|map(attribute='b', default='x')|join('-')
{'role': 'x'}.role, {'items': 1}['items']
{'items': 1}.items()|list
1_000, 0x1f, 0b11, 0o17
'a' in {'a': 1}, 1 in (1, 2), 'b' in none|default([])
true and false or true, not true == false
[none, undefined_thing]
{'a': undefined_thing}
undefined_thing|length, undefined_thing|list, undefined_thing|join
undefined_thing == none, undefined_thing == undefined_thing
undefined_thing.x
undefined_thing['x']
undefined_thing()
undefined_thing + 'x'
'x' + undefined_thing
'x' ~ undefined_thing
'x' + 1
1 + 'x'
1 + none
[] + none
none.x
none.x is defined
'abc'.nope is defined
'abc'.nope()
{}.nope()
[].append(1)
{}.update({'a': 1})
messages.append({'a': 1})
'a'|nope
1 is nope
1 / 0
none|length
1|length
1|list
none|tojson
raise_exception('no ' ~ 'way')
'a'|int + 'b'
[1][5]
[1][5].x
{'a': 1}['b'].c
'abc'|first, []|last
-7 // 2.0, 7.5 % 2, 7 // 0.5
'é'|length, '👍'|length, '日本'[1]
'ß'.upper(), 'İ'.lower()|length, "they're bill's"|title, "they're bill's".title()
'a\u00a0'.strip() ~ '|', '\x1ca'.strip() ~ '|'
messages[0]['content'][:3], messages[0]['content'][3:]
messages[0].content.strip().split(' ')[0]
""".strip("\n").split("\n")

EXPRESSIONS += [
    
    "1 + loop_count|default(2) + messages|length * 2", "(1 + 2) * (3 + 4) - -2 * 3",
    "messages[0].role + messages[1]['role'] + messages[2].role.upper() + 'x' * 2",
    "[1, 2] + messages|map(attribute='role')|list", "2 + 3 is number", "2 ** 3 * 2 + 2 ** 2",
    "'+' ~ '*' + \"*+\"", "1+1", "[1]+[2]", "{'a': [1] + [2]}['a'] + [3]", "not 1 + 1",
    "1 ~ -1, - 1", "'word word'|wordcount", "'{} and {}'.format(1, 'b')"]

# What Jinja renders and hone's engine does not know: it must say so and not render something else.
UNKNOWN = [
    "[0] * 2", "2 * messages",
    "'{!r}'.format('x')", "'%s is %d' % ('a', 3)", "'%s' % 'a'", "\"%(a)s\" % {'a': 1}", "+1",
    "'a very long text'|truncate(9)", "10|filesizeformat", "'a b'|urlencode",
]

TEMPLATES = [
    # white space
    "  {% if true %}\n  a\n  {% endif %}\n b\n",
    "a\n{%- if true -%}\n  b  \n{%- endif -%}\n c\n\n",
    "a {%+ if true %}b{% endif +%}\n c",
    "{# comment #}\nx\n  {#- c -#}  y\n",
    "{{ 'a' }}\n\n{{ 'b' -}}\n  c\n",
    "a{% raw %} {{ x }} {% y %} {% endraw %}b",
    "a\n  {%- raw -%}  {{ x }}  {%- endraw %}  b",
    "line\r\n{% if true %}\r\nx\r\n{% endif %}\r\nend\r\n",
    "trailing newline\n",
    "two trailing newlines\n\n",
    "\n\nleading",
    "{% if true %}\n\n x{% endif %}\n\n",
    "\t{% if true %}\tx\n\t{% endif %}\ty",
    "text {% if true %}\nx\n{% endif %}",
    "{%- if 1 + 1 -%} x {%- endif +%} y {{- 1 + messages|length -}} z",
   
    # loops
    "{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ loop.index0 }} {{ loop.first }} {{ loop.last }} {{ loop.revindex }} {{ loop.revindex0 }}\n{% endfor %}",
    "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined }}>{{ m.role }}>{{ loop.nextitem.role if loop.nextitem is defined }};{% endfor %}",
    "{% for m in messages %}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }}{% endfor %}",
    "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m.content }}{% else %}none{% endfor %}",
    "{% for m in [] %}x{% else %}empty{% endfor %}",
    "{% for k, v in tools[0].function.items() %}{{ k }}={{ v }}\n{% endfor %}",
    "{% for k in {'b': 1, 'a': 2} %}{{ k }}{% endfor %}",
    "{% for c in 'abc' %}{{ c }},{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for x in [1, [2, [3]]] recursive %}{% if x is number %}{{ x }}{% else %}<{{ loop(x) }}>{% endif %}{% endfor %}",
    "{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}",
    "{% set ns = namespace(x=1, found=false) %}{% for i in [1, 2] %}{% set ns.x = ns.x + i %}{% set ns.found = true %}{% endfor %}{{ ns.x }}{{ ns.found }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set x %}captured {{ 1 + 1 }}\n{% endset %}[{{ x }}]",
    "{% set x | upper %}captured{% endset %}{{ x }}",
    "{% if x is defined %}a{% elif y is defined %}b{% else %}c{% endif %}",
    "{% macro f(a, b=2, *args, **kw) %}{{ a }}-{{ b }}-{{ args }}-{{ kw }}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(b=5, a=4) }}",
    "{% macro f(a, b='d') %}[{{ a }}{{ b }}]{% endmacro %}{% set g = f('x') %}{{ g }}{{ f('y', b='z') ~ '!' }}{{ f('q') | upper }}",
    "{% macro f() %}{{ caller() }}{{ caller() }}{% endmacro %}{% call f() %}x{% endcall %}",
    "{% macro f() %}{{ caller('a') }}{% endmacro %}{% call(v) f() %}<{{ v }}>{% endcall %}",
    "{% macro outer(x) %}{% macro inner(y) %}{{ x }}{{ y }}{% endmacro %}{{ inner(2) }}{% endmacro %}{{ outer(1) }}",
    "{%- macro rec(n) -%}{{ n }}{%- if n > 0 -%},{{ rec(n - 1) }}{%- endif -%}{%- endmacro -%}{{ rec(5) }}",
    "{% filter upper %}abc {{ messages[0].role }}{% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}",
    "{{ raise_exception('Roles must alternate: ' ~ messages[0]['role']) }}",
    "{% for m in messages %}{% if loop.index0 == 1 %}{{ raise_exception(\"bad 'role'\") }}{% endif %}{% endfor %}",
    "{% set messages = messages[1:] %}{{ messages|length }}{{ messages[0].role }}",
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% endif %}{% for message in loop_messages %}{{ message.role }}{% endfor %}{{ system_message }}",
    "{% set ns = namespace() %}{% set ns.a = 'x' %}{{ ns.a }}{{ ns.b is defined }}",
    "{% set d = {'a': 1} %}{{ d.a }}{{ d['a'] }}{{ d.get('b') }}",
    "{{ bos_token }}{{ eos_token }}{{ pad_token }}|{{ bos_token is defined }}{{ pad_token is defined }}",
    "{{ enable_thinking is defined and enable_thinking is false }}",
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}",
    # generation blocks
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<end>{% endgeneration %}{% else %}{{ m.content }}<end>{% endif %}\n{% endfor %}",
    "{% for m in messages %}\n  {%- if m.role == 'assistant' -%}\n    {%- generation -%}\n    {{ loop.index }}{{ m.content | trim }} E\n    {%- endgeneration -%}\n  {%- else %}\n{{ m.content }}\n  {%- endif %}\n{% endfor %}",
    "{% for m in messages %}\n{% generation %}\n{{ m.content }}\n{% endgeneration %}\n{% endfor %}",
    # broken ones
    "{% if %}", "{{ 1 + }}", "{% for %}", "{% endfor %}", "{{", "{% if true %}", "{% unknown %}", "{{ 'a }}",
    "{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}", "{% from 'x' import y %}",
]


def case(template, name, **variables):
    item = {"template": template, "conversation": name, "variables": variables}
    data = {**TOKENS, "tools": TOOLS, **variables}
    try:
        rendered, _ = render_jinja_template([CHATS[name]], chat_template=template, **data)
        item["expected"] = rendered[0]
        if "endgeneration" in template:
            _, spans = render_jinja_template(
                [CHATS[name]], chat_template=template, return_assistant_tokens_mask=True, **data)
            # Characters to bytes.
            item["spans"] = [[len(rendered[0][:b].encode()), len(rendered[0][:e].encode())]
                             for b, e in spans[0]]
    except Exception as error:  # what kind does not matter, only that it refuses
        item["error"] = f"{type(error).__name__}: {error}"
    return item


SYSTEM = [{"role": "system", "content": "You add numbers. Ünïcode & <tags>"}]
TURN = [{"role": "user", "content": " What is 2+3? "}, {"role": "assistant", "content": "It is 5.\n"}]
THINK = [{"role": "user", "content": "7*6?"},
         {"role": "assistant", "content": "<think>\n7*6 is 42\n</think>\n\n42"}]
REASONED = [{"role": "user", "content": "7*6?"},
            {"role": "assistant", "content": "42", "reasoning_content": "\n7*6 is 42\n"}]
ASK = [{"role": "user", "content": "And 1+1?"}]

REAL_CHATS = {
    "turn": TURN, "system_turn": SYSTEM + TURN, "two": SYSTEM + TURN + TURN, "ask": ASK,
    "turn_ask": TURN + ASK, "think": THINK, "think_two": THINK + THINK,
    "reasoned": REASONED, "reasoned_ask": REASONED + ASK, "calls": CALLS, "system_calls": SYSTEM + CALLS,
}


def real_templates(assets):
    """(file, name of the template in it, template, special tokens) of the assets."""
    for path in sorted(assets.glob("tok-*/*tokenizer_config.json")) + sorted(
            assets.glob("chat-templates/*tokenizer_config.json")):
        config = json.loads(path.read_text())
        if "chat_template" in config:
            tokens = {}
            for role in ("bos_token", "eos_token", "unk_token", "pad_token"):
                value = config.get(role)
                if value is not None:
                    tokens[role] = value["content"] if isinstance(value, dict) else value
            yield str(path.relative_to(assets)), "", config["chat_template"], tokens
    for path in sorted(assets.glob("data/conversation_template/*.json")):
        template = json.loads(path.read_text())["chat_template"]
        yield str(path.relative_to(assets)), "", template, dict(TOKENS)
    goldens = json.loads((assets / "chat-templates/goldens.json").read_text())
    for item in goldens["cases"]:
        tokens = {"bos_token": item.get("bos_token", ""), "eos_token": item.get("eos_token", "")}
        yield "chat-templates/goldens.json", item["name"], item["template_str"], tokens


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return value


def real(assets):
    """Rows [conversation, add_generation_prompt, tools, enable_thinking or null, what]; what is
    the FNV-1a hash of the text (the texts are the templates' authors'), or null for an error."""
    groups = []
    for file, name, template, tokens in real_templates(assets):
        rows = []
        for chat, messages in REAL_CHATS.items():
            variants = [(False, None)]
            if chat in ("ask", "turn_ask", "reasoned_ask"):
                variants = [(True, None), (True, False)]
            if "calls" in chat:
                variants = [(False, None), (True, None)]
            for prompt, thinking in variants:
                options = {"add_generation_prompt": prompt}
                if "calls" in chat:
                    options["tools"] = TOOLS
                if thinking is not None:
                    options["enable_thinking"] = thinking
                try:
                    rendered, _ = render_jinja_template(
                        [messages], chat_template=template, **{**tokens, **options})
                    what = f"{fnv1a(rendered[0].encode()):016x}"
                except Exception:
                    what = None
                rows.append([chat, prompt, "calls" in chat, thinking, what])
        groups.append({"file": file, "name": name, "special_tokens": tokens, "rows": rows})
    path = OUT / "real_templates.json"
    lines = ",\n".join(json.dumps(g, ensure_ascii=False) for g in groups)
    path.write_text('{"conversations": ' + json.dumps(REAL_CHATS, ensure_ascii=False) +
                    ',\n"tools": ' + json.dumps(TOOLS, ensure_ascii=False) +
                    ',\n"templates": [\n' + lines + "\n]}\n")
    print(sum(len(g["rows"]) for g in groups), "renderings:", path)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    cases = [case("{% set v = (" + e + ") %}{{ v }}", "chat") for e in EXPRESSIONS]
    cases += [case(t, "chat") for t in TEMPLATES]
    cases += [case(t, "calls", enable_thinking=False) for t in TEMPLATES]
    cases += [{**case("{% set v = (" + e + ") %}{{ v }}", "chat"), "unknown": True}
              for e in UNKNOWN]
    path = OUT / "jinja.json"
    lines = ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases)
    path.write_text('{"conversations": ' + json.dumps(CHATS, ensure_ascii=False) +
                    ',\n"tools": ' + json.dumps(TOOLS, ensure_ascii=False) +
                    ',\n"special_tokens": ' + json.dumps(TOKENS) +
                    ',\n"cases": [\n' + lines + "\n]}\n")
    print(len(cases), "cases,", sum("error" in c for c in cases), "of them errors:", path)

    assets = OUT.parent.parent.parent / ".." / "shared" / "assets"
    if assets.exists():
        real(assets.resolve())


if __name__ == "__main__":
    main()
