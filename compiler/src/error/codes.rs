//! The table of error codes: one paragraph each, for `ingot explain`.
//!
//! `IG01` files and containers, `IG02` architecture and tensors, `IG03` tokenizers, `IG04` the
//! command line, `IG05` IR, passes and emitted code, `IG06` this machine.

use super::{Class, Code};

const fn compile(code: &'static str, text: &'static str) -> Code {
    Code { code, class: Class::Compile, text }
}

const fn usage(code: &'static str, text: &'static str) -> Code {
    Code { code, class: Class::Usage, text }
}

/// Every code, in order.
pub const CODES: &[Code] = &[
    compile(
        "IG0101",
        "A file of the model cannot be read: it does not exist, is not a regular file, may not be \
         opened, or is larger than a file of its kind can reasonably be. The note is the operating \
         system's word.",
    ),
    compile(
        "IG0102",
        "The path is no model. A model is a directory in Hugging Face layout (config.json and \
         model.safetensors, or shards with model.safetensors.index.json) or one .gguf file.",
    ),
    compile(
        "IG0103",
        "A JSON file of the model is not valid JSON, or not an object. The note names line and \
         column. An interrupted download is the usual cause.",
    ),
    compile(
        "IG0104",
        "The header of a safetensors file is damaged: cut short, larger than the file, no JSON, or \
         its offsets overlap, leave holes or do not fit the shapes. Nothing is guessed from a \
         damaged header: download or export the file again.",
    ),
    compile(
        "IG0105",
        "model.safetensors.index.json and the shards beside it disagree: a shard is missing, is \
         named with a path instead of a file name, lacks a tensor that the index promises, or two \
         shards hold the same tensor.",
    ),
    compile(
        "IG0106",
        "A GGUF file is damaged: cut short, counts larger than the file can hold, a name twice, a \
         value of an unknown type, or tensor data outside the file, overlapping or not aligned.",
    ),
    compile(
        "IG0107",
        "This kind of GGUF is not read: little-endian files of version 2 and 3 in one piece are. \
         Older files can be converted again from the original model, split files merged with \
         `llama-gguf-split --merge`.",
    ),
    compile(
        "IG0108",
        "A tensor is stored in a format that ingot does not read. Safetensors: F32, F16, BF16. \
         GGUF: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K.",
    ),
    compile(
        "IG0109",
        "The file is of no kind that `ingot inspect` knows: checkpoints (a directory or a .gguf \
         file), IR text (.ingot), libraries (.a), objects (.o) and packed weights.",
    ),
    compile("IG0110", "A library, an object file or packed weights are damaged or cut short."),
    compile(
        "IG0201",
        "The architecture is not supported. Compiled are decoder-only transformers: \
         LlamaForCausalLM, MistralForCausalLM, MobileLLMForCausalLM, Qwen2ForCausalLM, \
         Qwen3ForCausalLM, GemmaForCausalLM, Gemma2ForCausalLM and Gemma3ForCausalLM; in GGUF the \
         architectures llama, qwen2, qwen3, gemma, gemma2 and gemma3.",
    ),
    compile(
        "IG0202",
        "The architecture is supported, but the configuration uses a feature of it that is not, \
         such as YaRN, an unknown activation, or a quantised checkpoint of another tool. Compiling \
         without the feature would change the model's output, so it is refused.",
    ),
    compile(
        "IG0203",
        "The configuration lacks a hyper-parameter that the architecture has no default for.",
    ),
    compile(
        "IG0204",
        "A hyper-parameter has the wrong type or a value that no model can have: zero, absurdly \
         large, or not fitting another one, as when the heads cannot share the KV heads evenly, or \
         model_type and architectures name two different models.",
    ),
    compile(
        "IG0205",
        "The checkpoint lacks a tensor that the architecture needs. Either the file is one part of \
         several, or the configuration describes another model (more layers, biases, untied \
         embeddings).",
    ),
    compile(
        "IG0206",
        "The checkpoint holds a tensor that the architecture, as configured, does not use. It is \
         not ignored, because leaving weights out silently changes the model. Buffers that can be \
         computed (rotary_emb.inv_freq) are ignored.",
    ),
    compile(
        "IG0207",
        "A tensor's shape differs from what the hyper-parameters demand. The configuration belongs \
         to another model, or the tensor was exported transposed or fused.",
    ),
    compile(
        "IG0208",
        "The number of tokens in the configuration or the tokenizer is not the number of rows of \
         the embedding table.",
    ),
    compile(
        "IG0209",
        "The configuration ties the output matrix to the embedding table, and the checkpoint holds \
         an output matrix with other numbers. One of the two is wrong, and they give different \
         models.",
    ),
    compile(
        "IG0210",
        "The factors of rope_freqs.weight in a GGUF file match no known scaling of rotary \
         frequencies. GGUF stores Llama 3's scaling only as these factors; ingot recognises the \
         published parameters (low 1, high 4, original context 8192, any factor) and a constant \
         factor.",
    ),
    compile(
        "IG0211",
        "The numbers of a tensor could not be read, or are not finite. A NaN or an infinity among \
         the weights makes every output NaN; the usual cause is a conversion to f16 that \
         overflowed.",
    ),
    compile(
        "IG0212",
        "The file of --rotate holds no rotation: a safetensors file with a tensor R1 of the model's \
         width, and for each layer an R2 of the width of a head (R2.0, or \
         model.layers.0.self_attn.R2), each of them orthogonal.",
    ),
    compile(
        "IG0301",
        "The tokenizer cannot be read: its file is damaged, a token is listed twice, or merges \
         name tokens that do not exist.",
    ),
    compile(
        "IG0302",
        "The tokenizer is of a kind that ingot does not read. Read are byte-level BPE and \
         SentencePiece BPE, from tokenizer.json or from GGUF metadata (models gpt2 and llama).",
    ),
    compile(
        "IG0303",
        "The tokenizer can produce a token that the model has no embedding for, so a text could \
         index past the embedding table.",
    ),
    compile(
        "IG0304",
        "The command needs a tokenizer and the model has none: tokenizer.json or tokenizer.model \
         in its directory, or the tokenizer metadata of a GGUF file. `run --tokens` works on ids.",
    ),
    compile(
        "IG0305",
        "There is no chat: the checkpoint has no chat template (chat_template.jinja, \
         chat_template in tokenizer_config.json, tokenizer.chat_template in a GGUF file), or one \
         that cannot be compiled. What a template writes between two messages may depend on who \
         speaks and who spoke before, and on nothing else: not on what they say, on how many \
         messages there are, on the date. The line is that of the template.",
    ),
    usage(
        "IG0401",
        "The command line is well formed but asks for something that cannot be: a number out of \
         its range for this model, a name that does not exist, flags that do not go together. The \
         note says what is possible. `ingot help COMMAND` lists every flag.",
    ),
    usage(
        "IG0402",
        "The target is not to be had: a triple, a CPU or a feature that ingot does not know, or \
         code for another machine where it must run in this process (run, eval, bench). `ingot \
         targets` lists what there is.",
    ),
    usage(
        "IG0403",
        "A text file named on the command line cannot be read, or is not UTF-8. The note is the \
         operating system's word.",
    ),
    compile(
        "IG0501",
        "A pass cannot do what was asked of this model. The message names the pass and what would \
         do.",
    ),
    compile(
        "IG0502",
        "IR text is refused: it does not parse, breaks rules of the IR, or names tensors that the \
         checkpoint of --blobs does not hold. All broken rules are listed, each with its line and \
         the number that ir/README.md explains.",
    ),
    compile(
        "IG0503",
        "The IR is valid, but there is no code for it: a size or a combination of operations that \
         the kernels do not cover. The message names the graph and the limit.",
    ),
    compile(
        "IG0504",
        "The compiled model refused a call while it ran in this process, with a status of its C \
         interface. Commands check what they are given first, so this is worth a bug report.",
    ),
    Code {
        code: "IG0505",
        class: Class::Check,
        text: "With --probe, a pass that claims to leave the function of the model as it is moved the \
               logits of the interpreter by more than 1e-4 of the largest. Either the pass has a bug, \
               or the weights are so large that f32 cannot hold what it makes of them.",
    },
    Code {
        code: "IG0506",
        class: Class::Budget,
        text: "The budget cannot be met: with the smallest format for every matrix, and what recipes pin \
               as it is pinned, the weights still take more, or a token still costs more. The message \
               has both numbers. Under latency= and energy= a decoded token costs what its weights \
               cost to read: every matrix once for each call that multiplies by it, one row for a \
               lookup, a tenth for a call right after another one of the same weights if those fit \
               cache=.",
    },
    Code {
        code: "IG0507",
        class: Class::Budget,
        text: "The library does not fit the memory that --mem describes. Weights, tables and code go to \
               the first region with room, read-only ones before others; state, scratch and stack \
               only where memory can be written. The table says what lies where, what is left, and \
               what found no place. Sizes are those of one conversation and one call in flight; the \
               program's own memory comes on top. K, M and G are powers of 1024.",
    },
    Code {
        code: "IG0508",
        class: Class::Budget,
        text: "Within the budget perplexity rises by more than its ppl= allows. It is measured on windows \
               of the calibration text that nothing was fitted to, with the code and the weights that \
               would ship.",
    },
    compile(
        "IG0601",
        "A file cannot be written. Files are written into a folder of their own beside their place \
         (.ingot-XXXXXX) and moved once all are complete; the folder goes when a build fails or is \
         interrupted, so nothing half-written is left behind.",
    ),
    compile("IG0602", "The system does not give the memory that the model needs in this process."),
];
