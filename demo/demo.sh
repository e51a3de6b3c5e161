#!/bin/sh
# The embedded example: demo.sh HONE [RUN_FOLDER]. Fine-tunes the model in demo/model on problems
# with words it has never seen ("twice as many"), then asks the model before and after the tuning
# the same new questions and counts the right answers. Everything it writes is in RUN_FOLDER.
set -eu
hone=$1
run=${2:-runs/demo}
cd "$(dirname "$0")/.."

echo "== The model adds and takes away, but has never read \"twice as many\". It learns from:"
head -n 2 demo/twice.jsonl | cut -c 1-230
echo
echo "== Fine-tuning a LoRA adapter"
set -- sft --pretrained demo/model --dataset demo/twice.jsonl --dataset demo/basic.jsonl \
  --lora_rank 8 --lora_alpha 16 --lr 5e-3 --batch_size 16 --num_epochs 4 --max_length 128 \
  --tensorboard_dir "$run/tensorboard" --save_dir "$run" --overwrite
echo "hone $*"
"$hone" "$@"
echo
echo "== Asking the base model and the tuned one what neither was trained on"
for questions in twice basic; do
  input=demo/$questions.questions.jsonl
  "$hone" generate --pretrained demo/model --temperature 0 --max_new_tokens 48 \
    --input "$input" --output "$run/$questions.base.jsonl"
  "$hone" generate --pretrained demo/model --adapter "$run" --temperature 0 \
    --max_new_tokens 48 --input "$input" --output "$run/$questions.tuned.jsonl"
done
echo
awk -f demo/compare.awk "$run/twice.base.jsonl" "$run/twice.tuned.jsonl"
printf '\n%-34s %12s %12s\n' "right answers" base tuned
awk -v counts="new words: \"twice as many\"" -f demo/compare.awk "$run/twice.base.jsonl" \
  "$run/twice.tuned.jsonl"
awk -v counts="what the base model knew" -f demo/compare.awk "$run/basic.base.jsonl" \
  "$run/basic.tuned.jsonl"
cat <<END

The adapter is in $run (adapter_model.safetensors). Talk to the tuned model:
  $hone chat --pretrained demo/model --adapter $run
END
