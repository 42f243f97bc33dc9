"""Keys of documented forms, and keys that are known by their names, each drawn anew."""

import base64
import string
import uuid
from collections.abc import Callable, Mapping

from scan_maker import ALNUM, DIGITS, HEX, LETTERS, URLSAFE, Maker

Draw = Callable[[Maker], str]
FORMED: Mapping[str, tuple[Draw, ...]] = {
    "openai-key": (
        lambda m: f"sk-proj-{m.some(URLSAFE, 74)}T3BlbkFJ{m.some(URLSAFE, 74)}",
        lambda m: f"sk-svcacct-{m.some(URLSAFE, 58)}T3BlbkFJ{m.some(URLSAFE, 58)}",
        lambda m: f"sk-{m.some(ALNUM, 20)}T3BlbkFJ{m.some(ALNUM, 20)}",
    ),
    "anthropic-key": (
        lambda m: f"sk-ant-api03-{m.some(URLSAFE, 93)}AA",
        lambda m: f"sk-ant-admin01-{m.some(URLSAFE, 93)}AA",
    ),
    "openrouter-key": (lambda m: f"sk-or-v1-{m.some(HEX, 64)}",),
    "github-token": (
        *(lambda m, p=p: m.checked(p) for p in ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")),
        lambda m: f"github_pat_{m.some(ALNUM, 22)}_{m.some(ALNUM, 59)}",
    ),
    "gitlab-token": (
        lambda m: f"glpat-{m.some(URLSAFE, 20)}",
        lambda m: f"glpat-{m.some(URLSAFE, 27)}.01.{m.some(HEX, 9)}",
        lambda m: f"glrt-{m.some(URLSAFE, 20)}",
        lambda m: f"gldt-{m.some(URLSAFE, 20)}",
    ),
    "aws-access-key-id": (lambda m: f"AKIA{m.some('ABCDEFGHIJKLMNOPQRSTUVWXYZ234567', 16)}",),
    "google-api-key": (lambda m: f"AIza{m.some(URLSAFE, 34)}{m.some(ALNUM, 1)}",),
    "google-oauth-secret": (lambda m: f"GOCSPX-{m.some(URLSAFE, 27)}{m.some(ALNUM, 1)}",),
    "slack-token": (
        lambda m: f"xoxb-{m.some(DIGITS, 12)}-{m.some(DIGITS, 13)}-{m.some(ALNUM, 24)}",
        lambda m: f"xoxp-{m.some(DIGITS, 12)}-{m.some(DIGITS, 12)}-{m.some(DIGITS, 13)}-{m.some(HEX, 32)}",
        lambda m: f"xapp-1-A{m.some(string.ascii_uppercase + DIGITS, 10)}-{m.some(DIGITS, 13)}-{m.some(HEX, 64)}",
    ),
    "stripe-key": (lambda m: f"sk_live_{m.some(ALNUM, 24)}", lambda m: f"rk_live_{m.some(ALNUM, 99)}"),
    "webhook-secret": (lambda m: f"whsec_{m.some(ALNUM, 32)}",),
    "twilio-key": (lambda m: f"SK{m.some(HEX, 32)}",),
    "sendgrid-key": (lambda m: f"SG.{m.some(URLSAFE, 22)}.{m.some(URLSAFE, 42)}{m.some(ALNUM, 1)}",),
    "npm-token": (lambda m: m.checked("npm_"),),
    "pypi-token": (lambda m: f"pypi-AgEIcHlwaS5vcmc{m.some(URLSAFE, 130)}",),
    "digitalocean-token": (lambda m: f"dop_v1_{m.some(HEX, 64)}",),
    "hugging-face-token": (lambda m: f"hf_{m.some(LETTERS, 34)}",),
    "telegram-token": (lambda m: f"{m.random.randrange(10**9, 10**10)}:AA{m.some(URLSAFE, 32)}{m.some(ALNUM, 1)}",),
    "discord-token": (
        lambda m: (
            f"M{base64.b64encode(str(m.random.randrange(10**17, 10**18)).encode()).decode()[1:24]}."
            f"{m.some(ALNUM, 6)}.{m.some(ALNUM, 38)}"
        ),
    ),
    "jwt": (lambda m: m.jwt(),),
    "age-key": (lambda m: m.age(),),
    "onepassword-token": (
        lambda m: f"ops_{m.encoded({'signInAddress': 'a.1password.com', 'key': m.some(ALNUM, 200)})}",
    ),
    "vault-token": (lambda m: f"hvs.{m.some(ALNUM, 95)}", lambda m: f"hvb.{m.some(ALNUM, 140)}"),
    "vercel-token": (lambda m: f"vcp_{m.some(ALNUM, 56)}",),
    "supabase-key": (lambda m: f"sb_secret_{m.some(ALNUM, 31)}", lambda m: f"sbp_{m.some(HEX, 40)}"),
    "databricks-token": (lambda m: f"dapi{m.some(HEX, 32)}", lambda m: f"dapi{m.some(HEX, 32)}-2"),
    "linear-key": (lambda m: f"lin_api_{m.some(ALNUM, 40)}",),
    "notion-token": (lambda m: f"ntn_{m.some(ALNUM, 46)}", lambda m: f"secret_{m.some(ALNUM, 43)}"),
    "mailgun-key": (lambda m: f"key-{m.some(HEX, 32)}",),
    "cloudflare-token": (lambda m: f"cfut_{m.some(ALNUM, 40)}{m.some(HEX, 8)}",),
    "heroku-key": (lambda m: f"HRKU-AA{m.some(ALNUM, 58)}",),
    "shopify-token": (lambda m: f"shpat_{m.some(HEX, 32)}", lambda m: f"shpss_{m.some(HEX, 32)}"),
    "atlassian-token": (lambda m: f"ATATT3xFfGF0{m.some(URLSAFE, 170)}={m.some('0123456789ABCDEF', 8)}",),
    "docker-token": (lambda m: f"dckr_pat_{m.some(ALNUM, 27)}",),
    "azure-client-secret": (lambda m: f"{m.some(ALNUM, 3)}8Q~{m.some(ALNUM, 34)}",),
    "grafana-token": (lambda m: m.grafana(),),
    "groq-key": (lambda m: f"gsk_{m.some(ALNUM, 52)}",),
    "postman-key": (lambda m: f"PMAK-{m.some(HEX, 24)}-{m.some(HEX, 34)}",),
    "doppler-token": (lambda m: f"dp.pt.{m.some(ALNUM, 43)}",),
    "terraform-token": (lambda m: f"{m.some(ALNUM, 14)}.atlasv1.{m.some(ALNUM, 67)}",),
    "secret-broker-key": (lambda m: f"SECRET-BROKER-KEY-1:{m.some(URLSAFE, 43)}",),
}
"""Keys with a form of their own, by kind."""

NAMED: Mapping[str, tuple[tuple[str, Draw], ...]] = {
    "password": tuple(
        (name, lambda m: m.password()) for name in ("DB_PASSWORD", "adminPassword", "smtp_passwd", "passphrase")
    ),
    "generic-secret": (
        ("SESSION_SECRET", lambda m: m.some(HEX, 64)),
        ("api_key", lambda m: m.some(ALNUM, 32)),
        ("clientSecret", lambda m: m.some(ALNUM + "+/", 40)),
        ("AUTH_TOKEN", lambda m: m.some(ALNUM, 24)),
        ("ENCRYPTION_KEY", lambda m: base64.b64encode(m.some(ALNUM, 32).encode()).decode()),
        ("refresh_token", lambda m: m.some(URLSAFE, 48)),
    ),
    "aws-secret-access-key": (("AWS_SECRET_ACCESS_KEY", lambda m: m.some(ALNUM + "/+", 40)),),
    "twilio-auth-token": (("TWILIO_AUTH_TOKEN", lambda m: m.some(HEX, 32)),),
    "datadog-key": (("DD_API_KEY", lambda m: m.some(HEX, 32)),),
    "heroku-key": (("HEROKU_API_KEY", lambda m: str(uuid.UUID(int=m.random.getrandbits(128)))),),
    "azure-storage-key": (("AccountKey", lambda m: m.some(ALNUM + "+/", 86) + "=="),),
}
"""Keys that are known by their names, by kind."""
