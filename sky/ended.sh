#!/usr/bin/env bash
# Says how the task ended, to whoever follows: in OUT, and in the folder of each job that has not ended by itself. As one write
# each, since they are looked at all the time.
for folder in "$CROSSOVER_OUT"/ "$CROSSOVER_OUT"/*/; do
    if [ -d "$folder" ] && { [ "$folder" = "$CROSSOVER_OUT/" ] || [ ! -e "$folder/exit-code" ]; }; then
        echo "$1" > "$folder/.exit-code" && mv "$folder/.exit-code" "$folder/exit-code"
    fi
done
