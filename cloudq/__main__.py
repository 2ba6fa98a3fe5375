"""`python -m cloudq` is the command `cloudq`."""

from cloudq.cli import main

main()
