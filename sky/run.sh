#!/usr/bin/env bash
# Runs the worker under a time limit. Whatever happens to it, OUT/exit-code says how it ended, as the last thing written.
set -u

out=$CROSSOVER_OUT
mkdir -p "$out"
rm -f "$out/exit-code" "$out"/*/exit-code "$out/progress.jsonl"
python=$(cat .python)

timeout --foreground --signal=INT --kill-after=30 "$CROSSOVER_LIMIT_S" \
    "$python" -m runner.worker $CROSSOVER_JOB --out "$out" --progress >"$out/progress.jsonl" 2>>"$out/node.log" &
worker=$!
echo "$worker" > "$out/pid"
trap 'kill -INT "$worker" 2>/dev/null; wait "$worker"' TERM INT
wait "$worker"
code=$?

tail -n 100 "$out/node.log" >&2  # for sky logs
bash sky/ended.sh "$code"
exit "$code"
