# Completion of `crossover`, `python -m runner` and `python3 -m runner`. Install in this shell with
#   eval "$(python -m runner -sc install=bash)"
# Any other python command line completes as it did before.
_crossover_complete() {
    local line="${COMP_LINE:0:COMP_POINT}" program word breaks prefix reply IFS=$' \t\n'
    if [[ $line =~ ^[[:space:]]*([^[:space:]]*python[0-9.]*)[[:space:]]+-m[[:space:]]+runner[[:space:]] ]]; then
        program=("${BASH_REMATCH[1]/#\~/$HOME}" -m runner)
    elif [[ $line =~ ^[[:space:]]*([^[:space:]]*crossover)[[:space:]] ]]; then
        program=("${BASH_REMATCH[1]/#\~/$HOME}")
    else
        if [[ -n ${_crossover_old[$1]:-} ]]; then "${_crossover_old[$1]}" "$@"; fi
        return
    fi
    word="${line##*[[:space:]]}"
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "--help --version --multirun --cfg --info --config-dir --hydra-help --resolve" -- "$word"))
        return
    fi
    COMPREPLY=($(compgen -W "$(COMP_LINE="$line" "${program[@]}" -sc query=bash 2>/dev/null)" -- "$word"))
    # Readline replaces only what follows the last word break (`=`, `@`, `:`), so the part before it is cut off.
    breaks="${COMP_WORDBREAKS//[^=@:]/}"
    if [[ -n $breaks ]]; then
        prefix="${word%"${word##*[$breaks]}"}"
        COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
    fi
    for reply in "${COMPREPLY[@]}"; do
        if [[ $reply == *[=./] ]]; then compopt -o nospace 2>/dev/null; fi
    done
}

_crossover_install() {
    local name rule
    declare -gA _crossover_old
    for name in python python3 crossover; do
        rule="$(complete -p "$name" 2>/dev/null)"
        if [[ $rule =~ -F[[:space:]]+([^[:space:]]+) && ${BASH_REMATCH[1]} != _crossover_complete ]]; then
            _crossover_old[$name]="${BASH_REMATCH[1]}"
        fi
        complete -o default -F _crossover_complete "$name"
    done
    unset -f _crossover_install
}
_crossover_install
