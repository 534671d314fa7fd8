# What a shell job says to its agent: lines with a level, its result, statistics (docs/jobs.md, "From sh").
#
#     . "$AGENT_SCRIPT_SH"
#     agent_log warning "disk is nearly full"
#     agent_counter files 3
#     agent_result '{"files": 3}'
#
# POSIX shell. Everything is printed to stdout, where the agent reads it. A function that is used wrongly says so on
# stderr and returns 2.

# agent_log LEVEL TEXT: a message. LEVEL is a number from 1 to 100, or public, operator, log, structured, warning,
# error, critical, debug. A text of several lines stays one message.
agent_log() {
    case "${1-}" in
        stdout) _agent_say 1 "${2-}" ;;
        stderr) _agent_say 2 "${2-}" ;;
        public) _agent_say 3 "${2-}" ;;
        operator) _agent_say 4 "${2-}" ;;
        log) _agent_say 5 "${2-}" ;;
        structured) _agent_say 6 "${2-}" ;;
        warning) _agent_say 7 "${2-}" ;;
        error) _agent_say 8 "${2-}" ;;
        critical) _agent_say 9 "${2-}" ;;
        debug) _agent_say 11 "${2-}" ;;
        [1-9] | [1-9][0-9] | 100) _agent_say "$1" "${2-}" ;;
        *)
            echo "agent_log: '${1-}' is no level: give warning, error, ... or a number from 1 to 100" >&2
            return 2
            ;;
    esac
}

# agent_result JSON: the job's result; of several the last one counts.
agent_result() {
    _agent_say 20 "${1-}"
}

# agent_counter KEY [NUMBER]: adds NUMBER, 1 without it.
agent_counter() {
    _agent_statistic "${1-}" "${2-1}" c
}

# agent_gauge KEY NUMBER: sets a value, which holds until it is set again.
agent_gauge() {
    case "${2-}" in -*) _agent_statistic "${1-}" 0 g || return ;; esac # by itself a negative one would be a change
    _agent_statistic "${1-}" "${2-}" g
}

# agent_timer KEY MILLISECONDS: says how long something took.
agent_timer() {
    _agent_statistic "${1-}" "${2-}" ms
}

_agent_statistic() {
    case "$1" in
        '' | *:* | *'|'*)
            echo "agent_counter, agent_gauge, agent_timer: '$1' cannot be a key: it is empty, or has ':' or '|'" >&2
            return 2
            ;;
    esac
    case "$2" in
        '' | *[!0-9.eE+-]*)
            echo "agent_counter, agent_gauge, agent_timer: '$2' is no number" >&2
            return 2
            ;;
    esac
    _agent_say 10 "$1:$2|$3"
}

_agent_say() {
    case "$2" in
        *'
'*)
            # In one write; a line that begins with ::: would end the message and gets a blank in front.
            printf '%s:::%s\n:::\n' "$1" "$(printf '%s\n' "$2" | sed 's/^:::/ :::/')"
            ;;
        *) printf '%s::%s\n' "$1" "$2" ;;
    esac
}
