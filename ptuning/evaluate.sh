#!/usr/bin/env bash
# Answers the test file with what train.sh made, and scores the answers (BLEU-4, ROUGE).
#   DATA=AdvertiseGen CHECKPOINT=output/adgen-chatglm-6b-pt-128-2e-2 bash evaluate.sh
set -euo pipefail
MODEL=${MODEL:-THUDM/chatglm-6b}
DATA=${DATA:-AdvertiseGen}
CHECKPOINT=${CHECKPOINT:-output/adgen-chatglm-6b-pt-128-2e-2}
HERE=$(dirname "${BASH_SOURCE[0]}")

python "$HERE/main.py" \
    --do_predict \
    --test_file "$DATA/dev.json" \
    --prompt_column content \
    --response_column summary \
    --model_name_or_path "$MODEL" \
    --ptuning_checkpoint "$CHECKPOINT" \
    --output_dir "$CHECKPOINT" \
    --max_source_length 64 \
    --max_target_length 64 \
    --per_device_eval_batch_size 4 \
    --predict_with_generate \
    --quantization_bit 4 \
    "$@"
