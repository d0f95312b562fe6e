"""Whether the process is convscope's own, as that of a command is, or a program's that uses convscope."""

is_ours = False
