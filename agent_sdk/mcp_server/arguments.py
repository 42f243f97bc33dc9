"""What each tool takes. The structures are the schemas that clients see, and what arguments are checked against."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from agent_sdk.wire.messages import MAX_NAMES, MAX_PURPOSE, MAX_RECIPE, MAX_VERSION
from agent_sdk.wire.names import MAX_SECRET_NAME

MAX_WAIT = 600
MAX_ARGUMENTS = 256
MAX_TEXT = 64 * 1024
_NAME = r"^[a-z0-9]+([._-]+[a-z0-9]+)*$"
_REFERENCE = r"^secret://[a-z0-9]+([._-]+[a-z0-9]+)*$"

SecretName = Annotated[
    str, Meta(pattern=_NAME, max_length=MAX_SECRET_NAME, description="A name that list_secrets shows.")
]
NewName = Annotated[
    str, Meta(pattern=_NAME, max_length=MAX_SECRET_NAME, description="Such as agents.claude.webhook_key.")
]
Purpose = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_PURPOSE,
        description="What it is for, in one sentence. People who approve read it, and the audit keeps it. An approval "
        "is for this very text: use the same words when you ask again.",
    ),
]
Wait = Annotated[
    int,
    Meta(
        ge=0,
        le=MAX_WAIT,
        description="Seconds to wait for people who have to approve. Left out: as long as the client can be expected "
        "to wait if it showed its user the link, else not at all.",
    ),
]
Argument = Annotated[str, Meta(max_length=MAX_TEXT, pattern=r"^[^\x00]*$")]
Argv = Annotated[
    list[Argument],
    Meta(
        min_length=1,
        max_length=MAX_ARGUMENTS,
        description="The program and its arguments, one text each. No shell reads them: no pipes, no variables.",
    ),
]
References = dict[
    Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)],
    Annotated[str, Meta(pattern=_REFERENCE, max_length=len("secret://") + MAX_SECRET_NAME)],
]
Replaces = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_VERSION,
        description="The version that is to be replaced, as an earlier result named it. Left out: the name is created.",
    ),
]


class Nothing(Struct, forbid_unknown_fields=True):
    """No arguments."""


class RequestAccess(Struct, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `request_access`."""

    names: Annotated[list[SecretName], Meta(min_length=1, max_length=MAX_NAMES)]
    purpose: Purpose
    deliver: Annotated[
        Literal["env", "file", "env,file"],
        Meta(description="Whether run_command will have them in `env`, in `files`, or in both."),
    ] = "env"
    wait_seconds: Wait | UnsetType = UNSET


class RunCommand(Struct, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `run_command`."""

    argv: Argv
    purpose: Purpose
    env: Annotated[
        References,
        Meta(
            max_length=MAX_NAMES,
            description='Variables that hold a secret, as {"GH_TOKEN": "secret://github.read_token"}. Nothing but '
            "references can stand here.",
        ),
    ] = {}
    files: Annotated[
        References,
        Meta(
            max_length=MAX_NAMES,
            description="Variables that hold the path of a file with a secret in it, written as in env. The file is "
            "gone when the command ends.",
        ),
    ] = {}
    cwd: Annotated[str, Meta(max_length=4096, description="The folder to run in, within the server's own.")] = "."
    stdin: Annotated[str, Meta(max_length=MAX_TEXT, description="What the program reads.")] = ""
    timeout_seconds: Annotated[
        int, Meta(ge=1, le=MAX_WAIT, description="When the program is ended, with all that it started.")
    ] = 60
    wait_seconds: Wait | UnsetType = UNSET


class CallRoute(Struct, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `call_route`."""

    route: Annotated[str, Meta(pattern=_NAME, max_length=128, description="A route of the egress proxy.")]
    purpose: Annotated[
        str, Meta(max_length=MAX_PURPOSE, description="What it is for, for the user who is asked to approve it.")
    ] = ""
    path: Annotated[
        str,
        Meta(
            pattern=r"^/[^\x00-\x20\x7f#]*$",
            max_length=4096,
            description="The path and query behind the route, such as /v1/models?limit=5.",
        ),
    ]
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    headers: Annotated[
        dict[
            Annotated[str, Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", max_length=128)],
            Annotated[str, Meta(pattern=r"^[\x20-\x7e]*$", max_length=4096)],
        ],
        Meta(max_length=32, description="Further headers. The proxy adds the credential itself."),
    ] = {}
    body: Annotated[str, Meta(max_length=1024 * 1024, description="The body, as text.")] = ""
    timeout_seconds: Annotated[int, Meta(ge=1, le=MAX_WAIT)] = 60
    wait_seconds: Wait | UnsetType = UNSET


class GenerateSecret(Struct, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `generate_secret`."""

    name: NewName
    recipe: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_RECIPE,
            description="hex:32 or base64url:32 (bytes), alnum:24 or password:24 (characters), uuid4, ed25519, "
            "rsa:3072 (bits; keys are PEM).",
        ),
    ]
    purpose: Purpose
    replaces: Replaces | UnsetType = UNSET
    wait_seconds: Wait | UnsetType = UNSET


class StoreSecret(Struct, forbid_unknown_fields=True, kw_only=True):
    """Arguments of `store_secret`."""

    name: NewName
    purpose: Purpose
    from_file: (
        Annotated[
            str,
            Meta(min_length=1, max_length=4096, description="A file within the server's folder that holds the value."),
        ]
        | UnsetType
    ) = UNSET
    from_command: Argv | UnsetType = UNSET
    replaces: Replaces | UnsetType = UNSET
    wait_seconds: Wait | UnsetType = UNSET
