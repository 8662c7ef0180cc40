#!/usr/bin/env bash
# P-Tuning v2 on dialogues of several turns: rows of prompt, response and history, a list of [question, answer] pairs.
#   TRAIN_FILE=dialogues.json bash train_chat.sh
set -euo pipefail
MODEL=${MODEL:-THUDM/chatglm-6b}
TRAIN_FILE=${TRAIN_FILE:-train.json}
PRE_SEQ_LEN=${PRE_SEQ_LEN:-128}
LR=${LR:-1e-2}
OUTPUT=${OUTPUT:-output/chat-chatglm-6b-pt-$PRE_SEQ_LEN-$LR}
HERE=$(dirname "${BASH_SOURCE[0]}")

python "$HERE/main.py" \
    --do_train \
    --train_file "$TRAIN_FILE" \
    --prompt_column prompt \
    --response_column response \
    --history_column history \
    --model_name_or_path "$MODEL" \
    --output_dir "$OUTPUT" \
    --max_source_length 256 \
    --max_target_length 256 \
    --per_device_train_batch_size 1 \
    --gradient_accumulation_steps 16 \
    --max_steps 3000 \
    --logging_steps 10 \
    --save_steps 1000 \
    --learning_rate "$LR" \
    --pre_seq_len "$PRE_SEQ_LEN" \
    --quantization_bit 4 \
    "$@"
