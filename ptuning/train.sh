#!/usr/bin/env bash
# P-Tuning v2 on AdvertiseGen, one GPU of 7 GB or a CPU. Flags after the script's name are added; the last one counts.
#   DATA=AdvertiseGen MODEL=THUDM/chatglm-6b bash train.sh --max_steps 100
# Given again, the command goes on from its last checkpoint.
set -euo pipefail
MODEL=${MODEL:-THUDM/chatglm-6b}
DATA=${DATA:-AdvertiseGen}
PRE_SEQ_LEN=${PRE_SEQ_LEN:-128}
LR=${LR:-2e-2}
OUTPUT=${OUTPUT:-output/adgen-chatglm-6b-pt-$PRE_SEQ_LEN-$LR}
HERE=$(dirname "${BASH_SOURCE[0]}")

python "$HERE/main.py" \
    --do_train \
    --train_file "$DATA/train.json" \
    --prompt_column content \
    --response_column summary \
    --model_name_or_path "$MODEL" \
    --output_dir "$OUTPUT" \
    --max_source_length 64 \
    --max_target_length 64 \
    --per_device_train_batch_size 1 \
    --gradient_accumulation_steps 16 \
    --max_steps 3000 \
    --logging_steps 10 \
    --save_steps 1000 \
    --learning_rate "$LR" \
    --pre_seq_len "$PRE_SEQ_LEN" \
    --quantization_bit 4 \
    "$@"
