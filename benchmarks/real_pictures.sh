#!/usr/bin/env bash
# Pre-training against a random start on two small public sets, the same fine-tuning for both. About half an hour on
# two CPU cores. Usage: benchmarks/real_pictures.sh DATA OUT, where DATA holds covid-cxr/ and pneumonia-cxr/.
set -euo pipefail
data=$(realpath "$1")
mkdir -p "$2"
cd "$2"

# COVID-19 Image Data Collection: 350 pairs, the published covid1 lists.
mrm pretrain tiny --records "$data/covid-cxr/training.csv" --out covid --training.epochs 100 --training.warmup-epochs 5
for start in pretrained scratch; do
  option=$([ $start = scratch ] && echo --scratch || true)
  mrm finetune tiny --train "$data/covid-cxr/splits/iscovid_train.txt" --val "$data/covid-cxr/splits/iscovid_val.txt" \
    --init covid --out "covid-$start" $option
  mrm evaluate "covid-$start" --records "$data/covid-cxr/splits/iscovid_val.txt" --out "covid-$start/test"
done

# Paediatric pneumonia (Kermany et al. 2018): pictures alone, patients held out for validation and test.
mrm prepare custom --source "$data/pneumonia-cxr" --out pneumonia --classes pneumonia
mrm pretrain tiny --records pneumonia/train.csv --out pictures --training.epochs 10 --training.warmup-epochs 1
for start in pretrained scratch; do
  option=$([ $start = scratch ] && echo --scratch || true)
  mrm finetune tiny --train pneumonia/train.csv --val pneumonia/val.csv --classes pneumonia --init pictures \
    --out "pneumonia-$start" $option
  mrm evaluate "pneumonia-$start" --records pneumonia/test.csv --out "pneumonia-$start/test"
done
