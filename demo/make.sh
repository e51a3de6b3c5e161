#!/bin/sh
# Makes the embedded model again, with hone alone: data, tokenizer, random weights, full training.
#   demo/make.sh HONE [FOLDER]     FOLDER: where the result goes (default demo/model)
# Takes about four minutes on two cores. The data sets are the same wherever this runs; the weights
# are the same on every machine with the same instruction path (HONE_ISA), for any number of threads.
set -eu
hone=$1
here=$(cd "$(dirname "$0")" && pwd)
model=${2:-$here/model}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

problems() {  # KIND COUNT SEED [questions=1 | plain=1]
  awk -v kind="$1" -v count="$2" -v seed="$3" ${4:+-v "$4"} -f "$here/problems.awk"
}

# What ships: the chats to tune on, and questions of other seeds.
problems twice 600 11 > "$here/twice.jsonl"
problems basic 200 12 > "$here/basic.jsonl"
problems twice 50 13 questions=1 > "$here/twice.questions.jsonl"
problems basic 50 14 questions=1 > "$here/basic.questions.jsonl"

# What the base model learns from. The words of the new problems get tokens but are never trained.
problems basic 60000 1 > "$work/train.jsonl"
problems basic 200 2 > "$work/eval.jsonl"

for kind in basic twice; do problems $kind 5000 3 plain=1; done > "$work/text.txt"
"$hone" tokenizer --input "$work/text.txt" --vocab_size 512 \
  --special "<|endoftext|>" --special "<|im_start|>" --special "<|im_end|>" \
  --eos_token "<|im_end|>" --pad_token "<|endoftext|>" --chat_template "$here/chat_template.jinja" \
  --model_max_length 512 --output "$work/tokenizer"
cp "$here/generation_config.json" "$work/tokenizer/"
"$hone" init --config "$here/config.json" --tokenizer "$work/tokenizer" --output "$work/random" \
  --seed 1 --dtype fp32
"$hone" sft --pretrained "$work/random" --dataset "$work/train.jsonl" --lora_rank 0 --lr 3e-3 \
  --batch_size 32 --max_length 128 --dtype fp32 --seed 1 \
  --eval_dataset "$work/eval.jsonl" --save_dir "$work/run"

mkdir -p "$model"
for file in config.json generation_config.json model.safetensors tokenizer.json \
  tokenizer_config.json chat_template.jinja; do
  cp "$work/run/$file" "$model/"
done
