//! Chat templates as pieces: what stands before each turn, and what is refused.

use super::support::{Files, config_with};
use ingot::tokenizer::Tokenizer;
use runtime::chat::{Role, Turn};
use serde_json::{Value, json};

/// Every byte is a token; the names of marks are special tokens.
fn with_template(template: &str) -> Tokenizer {
    const MARKS: [&str; 8] = [
        "<s>",
        "</s>",
        "<|im_start|>",
        "<|im_end|>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<|h|>",
        "<|e|>",
    ];
    let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
    let mut names: Vec<String> = alphabet.into_iter().map(String::from).collect();
    names.sort();
    let first = names.len();
    names.extend(MARKS.map(String::from));
    let vocab: serde_json::Map<String, Value> =
        names.iter().enumerate().map(|(id, name)| (name.clone(), id.into())).collect();
    let added: Vec<Value> = (first..names.len())
        .map(|id| {
            json!({"id": id, "content": names[id], "special": true, "single_word": false,
                         "lstrip": false, "rstrip": false, "normalized": false})
        })
        .collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                       "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "added_tokens": added, "normalizer": null, "pre_tokenizer": bytes,
        "decoder": bytes, "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    let config = config_with("LlamaForCausalLM", json!({"vocab_size": names.len()}));
    let mut files = Files::model(&config);
    files.put("tokenizer.json", tokenizer.to_string());
    files
        .put("tokenizer_config.json", json!({"bos_token": "<s>", "eos_token": "</s>"}).to_string());
    files.put("chat_template.jinja", template);
    files.open().unwrap().tokenizer.unwrap()
}

/// What a turn's tokens and its head spell; with `~` where white space around the text is lost.
fn spelled(tokenizer: &Tokenizer, turn: &Turn) -> String {
    let pieces = turn.tokens.iter().map(|&t| tokenizer.pieces()[t as usize].bytes.clone());
    let text = String::from_utf8(pieces.flatten().chain(*b"|").chain(turn.head.clone()).collect());
    text.unwrap() + if turn.trim { "~" } else { "" }
}

const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe good.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const LLAMA2: &str = "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content + ' ' + eos_token }}{% endif %}{% endfor %}";

const GEMMA: &str = "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}";

const GEMMA3: &str = r#"{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\n'}}
{%- endif -%}
"#;

const LLAMA3: &str = "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|h|>' + message['role'] + '<|h|>\n\n'+ message['content'] | trim + '<|e|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|h|>assistant<|h|>\n\n' }}{% endif %}";

const ZEPHYR: &str = "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}";

/// After whom, who, and how their turn begins.
type Beginning = (Role, Role, &'static str);

#[test]
fn the_templates_of_known_models() {
    use Role::{Assistant, Start, System, User};
    let cases: &[(&str, &[Beginning])] = &[
        (
            CHATML,
            &[
                (Start, System, "<|im_start|>|system\n"),
                (Start, User, "<|im_start|>system\nBe good.<|im_end|>\n<|im_start|>|user\n"),
                (System, User, "<|im_end|>\n<|im_start|>|user\n"),
                (User, Assistant, "<|im_end|>\n<|im_start|>|assistant\n"),
                (User, Start, "<|im_end|>\n<|im_start|>|assistant\n"),
                (Assistant, User, "<|im_end|>\n<|im_start|>|user\n"),
            ],
        ),
        (
            GEMMA,
            &[
                (Start, User, "<s><start_of_turn>|user\n~"),
                (User, Assistant, "<end_of_turn>\n<start_of_turn>|model\n~"),
                (User, Start, "<end_of_turn>\n<start_of_turn>|model\n"),
                (Assistant, User, "<end_of_turn>\n<start_of_turn>|user\n~"),
            ],
        ),
        (
            GEMMA3,
            &[
                (Start, System, "<s><start_of_turn>|user\n"),
                (Start, User, "<s><start_of_turn>|user\n~"),
                (System, User, "|\n\n~"),
                (User, Assistant, "<end_of_turn>\n<start_of_turn>|model\n~"),
                (User, Start, "<end_of_turn>\n<start_of_turn>|model\n"),
                (Assistant, User, "<end_of_turn>\n<start_of_turn>|user\n~"),
            ],
        ),
        (
            LLAMA3,
            &[
                (Start, System, "<s><|h|>system<|h|>|\n\n~"),
                (Start, User, "<s><|h|>user<|h|>|\n\n~"),
                (System, User, "<|e|><|h|>user<|h|>|\n\n~"),
                (User, Assistant, "<|e|><|h|>assistant<|h|>|\n\n~"),
                (User, Start, "<|e|><|h|>assistant<|h|>|\n\n"),
                (Assistant, User, "<|e|><|h|>user<|h|>|\n\n~"),
            ],
        ),
        (
            LLAMA2,
            &[
                (Start, System, "<s>|[INST] <<SYS>>\n"),
                (Start, User, "<s>|[INST] "),
                (System, User, "|\n<</SYS>>\n\n"),
                (User, Assistant, "| [/INST] "),
                (User, Start, "| [/INST]"),
                (Assistant, User, " </s><s>|[INST] "),
            ],
        ),
        (
            ZEPHYR,
            &[
                (Start, System, "|<|system|>\n"),
                (Start, User, "|<|user|>\n"),
                (System, User, "</s>|\n<|user|>\n"),
                (User, Assistant, "</s>|\n<|assistant|>\n"),
                (User, Start, "</s>|\n<|assistant|>\n"),
                (Assistant, User, "</s>|\n<|user|>\n"),
            ],
        ),
    ];
    for (template, expected) in cases {
        let tokenizer = with_template(template);
        let turns = tokenizer.turns().unwrap();
        for &(after, role, text) in *expected {
            let turn = turns.iter().find(|turn| (turn.after, turn.role) == (after, role));
            assert_eq!(spelled(&tokenizer, turn.unwrap()), text, "{after:?} {role:?}");
        }
        assert_eq!(turns.len(), expected.len());
    }
}

/// What is written, the line that is blamed, words of the refusal.
const REFUSED: &[(&str, Option<usize>, &str)] = &[
    (
        "{% for m in messages %}\n{{ m.content }}\n{% endfor %}\n{% if %}",
        Some(4),
        "unexpected end of block",
    ),
    ("a\n{{ raise_exception('no') }}", Some(2), "no"),
    ("{% for m in messages %}{{ m.role }}{% endfor %}", None, "each message once"),
    (
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
        None,
        "each message once",
    ),
    (
        "{% for m in messages %}\n{% if loop.index == 4 %}\n{{ 'fourth' }}\n{% endif %}\n{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: ",
        Some(3),
        "after the user the assistant begins",
    ),
    (
        "{% for m in messages %}\n{{ m.role }}: \n{%- if 'a' in m.content %}\nan a\n{%- endif %}\n{{ m.content }}\n{% endfor %}assistant: \n",
        Some(3),
        "depends on more than who speaks",
    ),
    ("{% for m in messages %}\n{{ m.content | upper }}\n{% endfor %}", None, ""),
    (
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        Some(1),
        "",
    ),
];

#[test]
fn what_depends_on_more_than_who_speaks_is_refused_with_its_line() {
    for (template, line, words) in REFUSED {
        let refusal = with_template(template).turns().unwrap_err();
        assert!(refusal.why.contains(words), "{template}\n{refusal:?}");
        if line.is_some() {
            assert_eq!(refusal.line, *line, "{template}\n{refusal:?}");
        }
    }
}
