#!/usr/bin/env bash
# Run one rank, "$@", and note how it ended. Launchers do not tell it: srun leaves with the highest code of all (a hung
# rank is killed with a higher one than the 75 of those that noticed it), torchrun makes 1 of any code, and deepspeed
# makes 0 of a launcher that was killed.
trap : TERM   # Slurm and the launchers signal the rank too: wait for what it makes of that
"$@"
code=$?
if [ "$code" -eq 0 ]; then
  touch "$UMT_EXITS.done"
else
  (set -o noclobber; echo "$code" >"$UMT_EXITS.failed") 2>/dev/null   # the first one only
fi
exit "$code"
