"""Scripts by which bash and zsh complete `fcn-caffe`: its commands, and the flags, choices and files of each.

They are written from the commands' parsers, once, and then need no Python. (The library shtab writes such scripts too,
but wants one parser of all commands and a mark at every argument that is a file; with us all arguments may be files.)
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator

from fcn_caffe.commands import COMMANDS, names

__all__ = ["WRITERS", "bash_script", "zsh_script"]

GLOBAL_OPTIONS = {
    "--help": "list the commands",
    "--version": "print the version",
    "--completion": "print a completion script",
}
SHELLS = ("bash", "zsh")

_BASH = """\
# bash completion of fcn-caffe: eval "$(fcn-caffe --completion bash)"
_fcn_caffe() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" flags="" words=""
    COMPREPLY=()
    if [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "{commands}" -- "$current"))
        return
    fi
    case "${{COMP_WORDS[1]}} $previous" in
{choices}
    esac
    case "${{COMP_WORDS[1]}}" in
{flags}
    esac
    if [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "$current"))
    else
        COMPREPLY=($(compgen -W "$words" -- "$current"))
        local IFS=$'\\n'  # a file's name may have spaces
        COMPREPLY+=($(compgen -f -- "$current"))
    fi
}}
complete -o filenames -F _fcn_caffe fcn-caffe
"""

_ZSH = """\
#compdef fcn-caffe
# zsh completion of fcn-caffe: eval "$(fcn-caffe --completion zsh)" after compinit
_fcn_caffe() {{
    local -a commands
    commands=(
{commands}
    )
    if (( CURRENT == 2 )); then
        _describe -t commands command commands
        return
    fi
    local command=$words[2]
    shift words
    (( CURRENT-- ))
    case $command in
{arguments}
        (--completion) _values shell {shells} ;;
    esac
}}
compdef _fcn_caffe fcn-caffe
"""


def bash_script() -> str:
    """Write the script for bash."""
    flags, choices = [], []
    for name, actions in _actions():
        spelled = [flag for action in actions for flag in action.option_strings]
        words = [str(choice) for action in actions if not action.option_strings for choice in action.choices or ()]
        flags.append(f'        {name}) flags="{" ".join(spelled)}"; words="{" ".join(words)}" ;;')
        for action in actions:
            if action.option_strings and action.choices:
                patterns = "|".join(f'"{name} {flag}"' for flag in action.option_strings)
                answers = " ".join(map(str, action.choices))
                choices.append(f'        {patterns}) COMPREPLY=($(compgen -W "{answers}" -- "$current")); return ;;')
    flags.append(f'        --completion) words="{" ".join(SHELLS)}" ;;')
    return _BASH.format(
        commands=" ".join([*names(), *GLOBAL_OPTIONS]), choices="\n".join(choices), flags="\n".join(flags)
    )


def zsh_script() -> str:
    """Write the script for zsh."""
    described = {**GLOBAL_OPTIONS, **{name: what for group in COMMANDS.values() for name, what in group.items()}}
    commands = "\n".join(f"        {_quoted(f'{name}:{what}')}" for name, what in described.items())
    cases = []
    for name, actions in _actions():
        specs = " ".join(_quoted(spec) for action in actions for spec in _zsh_specs(action))
        cases.append(f"        ({name}) _arguments {specs} ;;")
    return _ZSH.format(commands=commands, arguments="\n".join(cases), shells=" ".join(SHELLS))


def _actions() -> Iterator[tuple[str, list[argparse.Action]]]:
    """Every command with the arguments that it takes."""
    for name in names():
        parser = importlib.import_module(f"fcn_caffe.commands.{name}").parser()
        yield name, parser._actions  # noqa: SLF001


def _zsh_specs(action: argparse.Action) -> Iterator[str]:
    """An argument in the words of zsh's _arguments: `*--flag[help]:name:values`."""
    values = f"({' '.join(map(str, action.choices))})" if action.choices else "_files"
    title = str(action.metavar or action.dest).replace(":", " ")
    if not action.option_strings:
        yield f"*:{title}:{values}" if action.nargs in ("+", "*") else f":{title}:{values}"
        return
    text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
    for character in "\\[]:":
        text = text.replace(character, f"\\{character}")
    for flag in action.option_strings:
        yield f"*{flag}[{text}]" + ("" if action.nargs == 0 else f":{title}:{values}")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


WRITERS = {"bash": bash_script, "zsh": zsh_script}
