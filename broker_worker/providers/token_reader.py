"""Reading a vault's access token: from the environment or from a file that nobody else may read."""

from collections.abc import Callable
from pathlib import Path

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.private_files import read_private
from broker_worker.providers.options import Options, Surroundings


def token_reader(
    options: Options, around: Surroundings, *, what: str, variable: str, most: int, option: str = "token"
) -> Callable[[], str]:
    """A function that reads the token that a section names by `token_env` or `token_file`.

    Args:
        options: the section's.
        around: its environment is used.
        what: the token's name in messages, such as `1Password service-account token`.
        variable: the environment variable, unless the section names one.
        most: longest file, in bytes.
        option: what stands in the options' names in the place of `token`.

    Returns:
        The function. It raises `ProviderError` or `SetupError` where there is no token; a file is read at every call.

    Raises:
        ConfigError: if the section names both, or what cannot be one.
    """
    in_variable, in_file = f"{option}_env", f"{option}_file"
    if options.has(in_variable) and options.has(in_file):
        raise options.refuse(f"both {in_variable} and {in_file} are given", "keep one of them")
    if options.has(in_file):
        path, hint = options.path(in_file, Path()), f"put the {option.replace('_', ' ')} there"
        return lambda: read_private(path, f"{what} file", most, hint=hint).decode("ascii", "replace")
    name = options.variable(in_variable, variable)
    text = around.environ.get(name)

    def read_variable() -> str:
        if not text:
            message = f"the {what} is missing: {name} is not set"
            hint = f"set {name} before the broker starts, or write {in_file} in broker.yaml"
            raise ProviderError(FailureKind.UNAUTHENTICATED, message, hint=hint)
        return text

    return read_variable
