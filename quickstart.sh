#!/usr/bin/env bash
# From raw text to two fine-tuned models in a few minutes on a CPU: sets up .venv and runs the three
# real jobs on the small real sample in data/sample. Running it again skips what is finished.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/scripts/environment.sh"
cd "$root"
make_venv
export DATA_DIR=quickstart_data MODEL_NAME=tiny
mkdir -p "$DATA_DIR"
for folder in openwebtext finetuning_data; do
  [ -e "$DATA_DIR/$folder" ] || ln -s "../data/sample/$folder" "$DATA_DIR/$folder"
done
model="$DATA_DIR/models/$MODEL_NAME"

echo "== 1 of 4: build training records from text"
bash build_data.sh
echo "== 2 of 4: pre-train a tiny model"
bash pretrain.sh --hparams scripts/quickstart_pretrain.json
echo "== 3 of 4: fine-tune on a sample of QNLI (a model this small stays near chance, 50 %)"
bash finetune.sh qnli --hparams scripts/quickstart_qnli.json
echo "== 4 of 4: fine-tune to tag parts of speech (each word's most frequent tag: 80 % accuracy)"
bash finetune.sh data/sample/pos.json --hparams scripts/quickstart_pos.json

echo
cat "$model/results/qnli_results.txt" "$model/results/pos_results.txt"
sentence="The little girl opened the garden gate and ran to the old house ."
echo "parts of speech of: $sentence"
"$python" scripts/predict.py "$model/finetuning_models/pos_1" --format conll "$sentence"
cat <<END

records              $DATA_DIR/pretrain_tfrecords
training log         $model/train_log.jsonl
pre-trained models   $model/discriminator, $model/generator
fine-tuned models    $model/finetuning_models/qnli_1, $model/finetuning_models/pos_1
dev scores           $model/results/qnli_results.json, $model/results/pos_results.json
test predictions     $model/test_predictions/qnli_test_1.tsv
END
