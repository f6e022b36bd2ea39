# step.sh NAME OUT PARTIAL INPUT...: one step of the dozen.
#
# Leaves a line in $HOME/ran for every execution, writes its output in two halves, and works for `cat $HOME/pace`
# seconds in between. A test that wants to be there at some moment puts a file `hold-NAME-MOMENT` into $HOME.
set -eu
name=$1 out=$2 partial=$3
shift 3

hold() {
    test -e "$HOME/hold-$name-$1" || return 0
    : > "$HOME/held-$name-$1"
    while test -e "$HOME/hold-$name-$1"; do sleep 0.005; done
}

# Held by this process and all its children: a second writer of one `partial` cannot have it.
exec 9> "$partial/writer"
# (1 says that somebody has it; whoever kills flock is told something else.)
flock -n 9 || test $? -ne 1 || echo "$name" >> "$HOME/../two-writers"
echo "$name" >> "$HOME/ran"

case $name in
    # Children that do not leave when they are asked to, one of them in a session of its own.
    a2) (trap '' TERM && exec sleep "$(cat "$HOME/linger")") & ;;
    b2) setsid sh -c "trap '' TERM; exec sleep $(cat "$HOME/linger")" > /dev/null 2>&1 & ;;
esac

echo "$name" > "$out"
hold begun
sleep "$(cat "$HOME/pace")"
case $name in
    # The first of a half keeps three lines of its source: later ones do not matter.
    ?0) head -n 3 "$@" >> "$out" ;;
    *) cat "$@" >> "$out" ;;
esac
hold done
