"""Cases of names.json, patterns.json and keynames.json."""

from wire_reference import Case, case, fingerprint, keypair

_BAD = "invalid/bad_name"

_SECRET_OK = {
    "one part": "github_token",
    "two parts": "openai.api_key",
    "one character": "a",
    "digits": "0.1.2",
    "both joiners": "a-b_c.d",
    "doubled joiners inside a part": "a--b__c",
    "longest": "x" * 128,
}
_SECRET_BAD = {
    "empty": "",
    "too long": "x" * 129,
    "upper case": "OpenAI.api_key",
    "one upper-case letter at the end": "openai.api_keY",
    "empty part": "openai..api_key",
    "leading dot": ".openai",
    "closing dot": "openai.",
    "leading joiner": "_openai",
    "closing joiner": "openai-",
    "joiner beside a dot": "openai._key",
    "space inside": "openai key",
    "leading space": " openai",
    "closing line feed": "openai\n",
    "NUL": "openai\x00",
    "letter with a diaeresis": "schl\u00fcssel",
    "Cyrillic letter that looks like a": "openai.\u0430pi_key",
    "full-width letter": "\uff41",
    "Arabic-Indic digit": "key\u0661",
    "Kelvin sign, which folds to k": "\u212aey",
    "zero-width joiner": "open\u200dai",
    "slash": "openai/api_key",
    "parent folder": "../openai",
    "percent encoding": "openai%2eapi_key",
    "star": "openai.*",
    "colon": "openai:api_key",
    "braces of a cluster hash tag": "{openai}",
}


def name_cases() -> list[Case]:
    """Cases of the three kinds of names."""
    cases = [case(n, "ok", kind="secret_name", text=t) for n, t in _SECRET_OK.items()]
    cases += [case(n, _BAD, kind="secret_name", text=t) for n, t in _SECRET_BAD.items()]
    for kind, good in (("agent_id", "random-script"), ("run_id", "run-7f3a")):
        cases += [
            case(f"{kind} of the usual form", "ok", kind=kind, text=good),
            case(f"longest {kind}", "ok", kind=kind, text="x" * 64),
            case(f"{kind} that is too long", _BAD, kind=kind, text="x" * 65),
            case(f"empty {kind}", _BAD, kind=kind, text=""),
            case(f"{kind} in upper case", _BAD, kind=kind, text="Claude"),
            case(f"{kind} that would close the hash tag", _BAD, kind=kind, text="a}b"),
            case(f"{kind} with a colon", _BAD, kind=kind, text="a:b"),
            case(f"{kind} with a slash", _BAD, kind=kind, text="a/b"),
        ]
    return cases


_MATCHES = {
    "openai.api_key": (["openai.api_key"], ["openai.api_key2", "openai.api", "openai.api-key", "openaiXapi_key"]),
    "github.*": (["github.read_token", "github.a-b"], ["github", "github.org.token", "gitlab.read_token"]),
    "github.**": (["github.read_token", "github.org.token"], ["github", "githubs.token"]),
    "*": (["a", "github_token"], ["a.b"]),
    "*.*": (["a.b"], ["a", "a.b.c"]),
    "**": (["a", "a.b", "a.b.c"], []),
    "a.*.c": (["a.b.c"], ["a.c", "a.b.b.c", "a.b.d"]),
    "*.**": (["a.b", "a.b.c"], ["a"]),
}
_PATTERN_BAD = {
    "empty": "",
    "star inside a part": "git*",
    "part that ends in a star": "github.read*",
    "double star in the middle": "a.**.c",
    "double star first": "**.a",
    "triple star": "***",
    "closing dot": "a.",
    "empty part": "a..*",
    "upper case": "GitHub.*",
    "question mark": "a.?",
    "regular expression": "a.[a-z]+",
    "regular expression dot-star": ".*",
    "closing line feed": "a.*\n",
    "too long": "*." * 64 + "a",
}


def pattern_cases() -> list[Case]:
    """Cases of patterns over secret names."""
    cases = [case(n, _BAD, text=t) for n, t in _PATTERN_BAD.items()]
    for text, (covered, others) in _MATCHES.items():
        cases.append(case(f"pattern {text}", "ok", text=text, matches=covered, does_not_match=others))
    return cases


def keyname_cases() -> list[Case]:
    """Names of keys and channels, and the fingerprint in a reply stream's name."""
    public, _ = keypair("run a")
    return [
        case("request stream", "ok", function="requests", arguments=["claude"], value="sb:req:{claude}"),
        case(
            "reply stream",
            "ok",
            function="replies",
            arguments=["claude", fingerprint(public)],
            value=f"sb:rep:{{claude}}:{fingerprint(public)}",
        ),
        case("doorbell channel", "ok", function="doorbell", arguments=["claude"], value="sb:bell:{claude}"),
        case(
            "replay marks of the deadlines of one quarter of a minute",
            "ok",
            function="seen",
            arguments=["claude", 119720000],
            value="sb:seen:{claude}:119720000",
        ),
        case(
            "mark of a single-use approval",
            "ok",
            function="used",
            arguments=["claude", "0123456789abcdef"],
            value="sb:used:{claude}:0123456789abcdef",
        ),
        case(
            "approvals that a run has waiting",
            "ok",
            function="open_approvals",
            arguments=["claude", "run-1"],
            value="sb:open:{claude}:run-1",
        ),
        case("limit of an agent", "ok", function="agent_limit", arguments=["codex"], value="sb:lim:{codex}:agent"),
        case(
            "limit of a run",
            "ok",
            function="run_limit",
            arguments=["codex", "run-1"],
            value="sb:lim:{codex}:run:run-1",
        ),
        case(
            "limit of a grant",
            "ok",
            function="grant_limit",
            arguments=["codex", "github.read_token"],
            value="sb:lim:{codex}:grant:github.read_token",
        ),
        case(
            "limit of a secret",
            "ok",
            function="secret_limit",
            arguments=["openai.api_key"],
            value="sb:lim:{secret:openai.api_key}",
        ),
        case("fingerprint", "ok", function="fingerprint", arguments=[public], value=fingerprint(public)),
        case("agent of a stream", "ok", function="agent_of_requests", arguments=["sb:req:{a.b-c}"], value="a.b-c"),
        *(
            case(name, "invalid/bad_key_name", function="agent_of_requests", arguments=[text])
            for name, text in {
                "reply stream for a request stream": "sb:rep:{claude}:x",
                "request stream without braces": "sb:req:claude",
                "request stream of nobody": "sb:req:{}",
                "request stream with two tags": "sb:req:{a}{b}",
                "request stream of an agent in upper case": "sb:req:{Claude}",
                "empty key name": "",
                "key name with something before": "xsb:req:{claude}",
            }.items()
        ),
    ]
