//! Completion scripts: what is known without asking, by clap, and before it the question to `hostctl __complete`.
//!
//! The question goes through the environment, where other users of the machine cannot read it. Its exit code says whether the answer counts,
//! also an empty one; otherwise the script completes by itself. Errors go nowhere.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;

/// The variable with the line up to the cursor.
pub(super) const LINE: &str = "HOSTCTL_COMPLETE_LINE";

const BASH: &str = r#"
_hostctl() {
    local line="${COMP_LINE:0:COMP_POINT}" answer one word before=
    COMPREPLY=()
    if ! answer=$(HOSTCTL_COMPLETE_LINE="$line" "${COMP_WORDS[0]}" __complete 2>/dev/null </dev/null); then
        _hostctl_static "$@"
        return
    fi
    # Only what follows the last = or : of a word is replaced, where these break words.
    word="${line##*[[:space:]]}"
    case "$COMP_WORDBREAKS" in
        *=*) case "$word" in *=*) before="${word%"${word##*=}"}" ;; esac ;;
    esac
    case "$COMP_WORDBREAKS" in
        *:*) case "$word" in *:*) one="${word%"${word##*:}"}"; [ "${#one}" -gt "${#before}" ] && before="$one" ;; esac ;;
    esac
    while IFS= read -r one; do
        [ -n "$one" ] && COMPREPLY+=("${one#"$before"}")
    done <<<"$answer"
    # No file names where a name of the platform is asked for, and no blank behind what goes on.
    compopt +o default +o bashdefault 2>/dev/null
    case "$answer" in *[=/]) compopt -o nospace 2>/dev/null ;; esac
    return 0
}
"#;

const ZSH: &str = r#"
_hostctl() {
    local answer
    local -a found
    if ! answer="$(HOSTCTL_COMPLETE_LINE="${(j: :)words[1,CURRENT-1]} $PREFIX" "${words[1]}" __complete 2>/dev/null </dev/null)"; then
        _hostctl_static "$@"
        return
    fi
    found=("${(@f)answer}")
    found=("${(@)found:#}")
    (( $#found )) || return 1
    compadd -S '' -- "${(@M)found:#*[=/]}"
    compadd -- "${(@)found:#*[=/]}"
}
"#;

const FISH: &str = r#"
function __fish_hostctl_ask
    set -g __fish_hostctl_answer (env HOSTCTL_COMPLETE_LINE=(commandline -cp | string join ' ') hostctl __complete 2>/dev/null </dev/null)
end
complete -c hostctl -n __fish_hostctl_ask -f -a '$__fish_hostctl_answer'
"#;

/// The script for a shell.
pub(crate) fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hostctl", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    // The function that the shell calls asks first; what clap made is called behind it.
    let behind = |script: &str| script.replacen("\n_hostctl() {", "\n_hostctl_static() {", 1);
    match shell {
        Shell::Bash => {
            let script = format!("\n{script}");
            format!("{}{BASH}", behind(&script).trim_start())
        }
        // The last lines call the function, so it is put before them.
        Shell::Zsh => {
            let script = behind(&script);
            match script.rsplit_once("\nif [ \"$funcstack[1]\"") {
                Some((before, call)) => format!("{before}{ZSH}\nif [ \"$funcstack[1]\"{call}"),
                None => script,
            }
        }
        Shell::Fish => format!("{script}{FISH}"),
        _ => script,
    }
}
