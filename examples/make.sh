#!/bin/sh
# Makes the contrast files and the vectors of this repository again, byte for byte.
set -eu
cd "$(dirname "$0")/.."

make_one() { # name, kind, positive, negative
    python -m steer.pocket.pairs "$2" "$3" "$4" > "examples/contrasts/$1.jsonl"
    steer extract "examples/contrasts/$1.jsonl" -m pocket -o "steer/pocket/vectors/$1.safetensors" --force \
        --description "$2: $3, away from $4" --license CC0-1.0
}

make_one joyful mood joyful gloomy
make_one formal style formal casual
make_one sea topic sea forest

# A set that is not of pairs: harmful and harmless requests.
python examples/requests.py > examples/contrasts/refusal.jsonl
