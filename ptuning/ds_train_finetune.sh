#!/usr/bin/env bash
# Trains all parameters on several GPUs by DeepSpeed ZeRO; deepspeed.json is stage 2, and "$@" may name another file.
#   DATA=AdvertiseGen GPUS=4 bash ds_train_finetune.sh
# The same by PyTorch alone (FSDP): LAUNCH="torchrun --nproc_per_node 4" SHARDING="--fsdp full_shard" bash ds_train_finetune.sh
set -euo pipefail
MODEL=${MODEL:-THUDM/chatglm-6b}
DATA=${DATA:-AdvertiseGen}
LR=${LR:-1e-4}
GPUS=${GPUS:-4}
OUTPUT=${OUTPUT:-output/adgen-chatglm-6b-ft-$LR}
HERE=$(dirname "${BASH_SOURCE[0]}")
MASTER_PORT=${MASTER_PORT:-$(shuf -n 1 -i 10000-65535)}
LAUNCH=${LAUNCH:-deepspeed --num_gpus=$GPUS --master_port $MASTER_PORT}
SHARDING=${SHARDING:---deepspeed $HERE/deepspeed.json}

# LAUNCH and SHARDING are words of a command each
# shellcheck disable=SC2086
$LAUNCH "$HERE/main.py" \
    $SHARDING \
    --do_train \
    --train_file "$DATA/train.json" \
    --prompt_column content \
    --response_column summary \
    --model_name_or_path "$MODEL" \
    --output_dir "$OUTPUT" \
    --max_source_length 64 \
    --max_target_length 64 \
    --per_device_train_batch_size 4 \
    --gradient_accumulation_steps 1 \
    --max_steps 5000 \
    --logging_steps 10 \
    --save_steps 1000 \
    --learning_rate "$LR" \
    --bf16 \
    "$@"
