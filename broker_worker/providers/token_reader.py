"""Reading a vault's access token: from the environment or from a file that nobody else may read."""

from collections.abc import Callable
from pathlib import Path

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.private_files import read_private
from broker_worker.providers.options import Options, Surroundings


def token_reader(options: Options, around: Surroundings, *, what: str, variable: str, most: int) -> Callable[[], str]:
    """A function that reads the token that a section names by `token_env` or `token_file`.

    Args:
        options: the section's.
        around: its environment is used.
        what: the token's name in messages, such as `1Password service-account token`.
        variable: the environment variable, unless the section names one.
        most: longest file, in bytes.

    Returns:
        The function. It raises `ProviderError` or `SetupError` where there is no token; a file is read at every call.

    Raises:
        ConfigError: if the section names both, or what cannot be one.
    """
    if options.has("token_env") and options.has("token_file"):
        raise options.refuse("both token_env and token_file are given", "keep one of them")
    if options.has("token_file"):
        path = options.path("token_file", Path())
        return lambda: read_private(path, f"{what} file", most, hint="put the token there").decode("ascii", "replace")
    name = options.variable("token_env", variable)
    text = around.environ.get(name)

    def read_variable() -> str:
        if not text:
            message = f"the {what} is missing: {name} is not set"
            hint = f"set {name} before the broker starts, or write token_file in broker.yaml"
            raise ProviderError(FailureKind.UNAUTHENTICATED, message, hint=hint)
        return text

    return read_variable
