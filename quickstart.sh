#!/usr/bin/env bash
# From nothing to a dev score in a few minutes on a CPU: sets up .venv and runs the three real jobs
# on the small real sample in data/sample. What is finished is not done again.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/scripts/environment.sh"
cd "$root"
make_venv
export DATA_DIR=quickstart_data MODEL_NAME=tiny
mkdir -p "$DATA_DIR"
for folder in openwebtext finetuning_data; do
  [ -e "$DATA_DIR/$folder" ] || ln -s "../data/sample/$folder" "$DATA_DIR/$folder"
done

echo "== 1 of 3: text to training records"
bash build_data.sh
echo "== 2 of 3: pre-training"
bash pretrain.sh --hparams scripts/quickstart_pretrain.json
echo "== 3 of 3: fine-tuning on a sample of QNLI (its scores are not GLUE scores)"
bash finetune.sh qnli --hparams scripts/quickstart_finetune.json

model="$DATA_DIR/models/$MODEL_NAME"
echo
cat "$model/results/qnli_results.txt"
cat <<END

records              $DATA_DIR/pretrain_tfrecords
training log         $model/train_log.jsonl
pre-trained models   $model/discriminator, $model/generator
fine-tuned model     $model/finetuning_models/qnli_1
dev score            $model/results/qnli_results.json
test predictions     $model/test_predictions/qnli_test_1.tsv
END
