#!/usr/bin/env bash
# Chat in a web browser with what train.sh made. Further flags are those of web_demo.py:
#   CHECKPOINT=output/adgen-chatglm-6b-pt-128-2e-2/checkpoint-3000 bash ptuning/web_demo.sh --port 8080
set -euo pipefail
MODEL=${MODEL:-THUDM/chatglm-6b}
CHECKPOINT=${CHECKPOINT:?set CHECKPOINT to the folder that training wrote}

exec python "$(dirname "$0")/web_demo.py" --model "$MODEL" --ptuning-checkpoint "$CHECKPOINT" "$@"
