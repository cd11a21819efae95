"""`vllm serve` as vLLM's own subcommand runs it, for builds whose distribution is not called vllm.

The program itself asks for the version of a distribution of that name before it reads its arguments.
"""

from __future__ import annotations


def main() -> None:
    """Parse the command line with vLLM's parser and serve."""
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    cli_env_setup()
    parser, command = FlexibleArgumentParser(), ServeSubcommand()
    command.subparser_init(parser.add_subparsers())
    arguments = parser.parse_args()
    command.validate(arguments)
    command.cmd(arguments)


if __name__ == "__main__":
    main()
