#!/usr/bin/env bash
# Answers the test file with a model of which all parameters were trained (ds_train_finetune.sh), and scores the answers.
#   DATA=AdvertiseGen MODEL=output/adgen-chatglm-6b-ft-1e-4 bash evaluate_finetune.sh
set -euo pipefail
MODEL=${MODEL:-output/adgen-chatglm-6b-ft-1e-4}
DATA=${DATA:-AdvertiseGen}
HERE=$(dirname "${BASH_SOURCE[0]}")

python "$HERE/main.py" \
    --do_predict \
    --test_file "$DATA/dev.json" \
    --prompt_column content \
    --response_column summary \
    --model_name_or_path "$MODEL" \
    --output_dir "$MODEL" \
    --max_source_length 256 \
    --max_target_length 256 \
    --per_device_eval_batch_size 4 \
    --predict_with_generate \
    "$@"
