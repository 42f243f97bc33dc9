"""Keys that tell by their form what they are: the prefixes and lengths that their vendors document.

A row is a kind, what people call it, the beginnings by which it is found, and the whole form. A form is matched from
its beginning on, and no letter, digit or underscore may follow. What says more than its form, such as a checksum, is
checked too.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from agent_sdk.scan import checks


@dataclass(frozen=True, slots=True)
class KeyFormat:
    """The form of one kind of key.

    Args:
        kind: its stable name.
        title: what people call it.
        beginnings: what it begins with.
        form: a regular expression for all of it.
        check: whether what was matched is such a key; None where the form says all.
    """

    kind: str
    title: str
    beginnings: tuple[bytes, ...]
    form: "re.Pattern[bytes]"
    check: Callable[[bytes], bool] | None = None


_Check = Callable[[bytes], bool] | None


def _row(kind: str, title: str, beginnings: str, form: str, check: _Check = None) -> KeyFormat:
    pattern = re.compile(rb"(?:" + form.encode() + rb")(?![A-Za-z0-9_])")
    return KeyFormat(kind, title, tuple(part.encode() for part in beginnings.split()), pattern, check)


_GITHUB = r"gh[pousr]_[A-Za-z0-9]{36}"
_JWT = r"eyJ[A-Za-z0-9_-]{8,2048}\.eyJ[A-Za-z0-9_-]{8,8192}\.[A-Za-z0-9_-]{20,1024}"
_UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"

KEY_FORMATS: Final = (
    _row(
        "openai-key",
        "OpenAI API key",
        "sk-",
        r"sk-(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{20,200}|"
        r"sk-(?:[a-z][a-z0-9-]{0,40}-)?[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}",
    ),
    _row(
        "anthropic-key", "Anthropic API key", "sk-ant-", r"sk-ant-(?:api|admin|oat|ort|sid)\d\d-[A-Za-z0-9_-]{32,200}"
    ),
    _row("openrouter-key", "OpenRouter API key", "sk-or-", r"sk-or-v1-[0-9a-f]{64}"),
    _row("github-token", "GitHub token", "ghp_ gho_ ghu_ ghs_ ghr_", _GITHUB, checks.has_base62_checksum),
    _row("github-token", "GitHub token", "github_pat_", r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    _row(
        "gitlab-token",
        "GitLab token",
        "glpat- gldt- glrt- glcbt- glptt- glft- glimt- glagent- gloas- glsoat- glffct- glwt-",
        r"gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|oas|soat|ffct|wt)-[A-Za-z0-9_-]{20,512}(?:\.[0-9a-z]{2}\.[0-9a-z]{9})?",
    ),
    _row("gitlab-token", "GitLab runner registration token", "GR1348941", r"GR1348941[A-Za-z0-9_-]{20}"),
    _row("aws-access-key-id", "AWS access key id", "AKIA ASIA ABIA ACCA", r"A(?:KIA|SIA|BIA|CCA)[A-Z2-7]{16}"),
    _row("google-api-key", "Google API key", "AIza", r"AIza[A-Za-z0-9_-]{35}"),
    _row("google-oauth-secret", "Google OAuth client secret", "GOCSPX-", r"GOCSPX-[A-Za-z0-9_-]{28}"),
    _row(
        "slack-token",
        "Slack token",
        "xoxb- xoxp- xoxa- xoxr- xoxs- xoxe xapp-",
        r"xox[baprs]-(?:\d+-)+[A-Za-z0-9-]{16,}|xoxe(?:\.xox[bp])?-\d-[A-Za-z0-9]{80,}|xapp-\d-[A-Z0-9]+-\d+-[a-z0-9]{32,}",
    ),
    _row(
        "stripe-key",
        "Stripe secret key",
        "sk_live_ sk_test_ rk_live_ rk_test_",
        r"[sr]k_(?:live|test)_[A-Za-z0-9]{20,247}",
    ),
    _row("webhook-secret", "webhook signing secret", "whsec_", r"whsec_[A-Za-z0-9+/]{32,}={0,2}"),
    _row("twilio-key", "Twilio API key", "SK", r"SK[0-9a-f]{32}"),
    _row("sendgrid-key", "SendGrid API key", "SG.", r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),
    _row("npm-token", "npm access token", "npm_", r"npm_[A-Za-z0-9]{36}", checks.has_base62_checksum),
    _row("pypi-token", "PyPI token", "pypi-AgE", r"pypi-AgE(?:IcHlwaS5vcmc|NdGVzdC5weXBpLm9yZw)[A-Za-z0-9_-]{50,}"),
    _row("rubygems-key", "RubyGems API key", "rubygems_", r"rubygems_[0-9a-f]{48}"),
    _row("crates-io-token", "crates.io token", "cio", r"cio[A-Za-z0-9]{32}"),
    _row("digitalocean-token", "DigitalOcean token", "dop_v1_ doo_v1_ dor_v1_", r"do[opr]_v1_[0-9a-f]{64}"),
    _row("hugging-face-token", "Hugging Face token", "hf_ api_org_", r"(?:hf_|api_org_)[A-Za-z]{34}"),
    _row(
        "discord-token",
        "Discord bot token",
        "M N O",
        r"[MNO][A-Za-z0-9_-]{23,28}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,38}",
        checks.is_discord,
    ),
    _row("jwt", "JSON web token", "eyJ", _JWT, checks.is_jwt),
    _row("age-key", "age secret key", "AGE-SECRET-KEY-1", r"AGE-SECRET-KEY-1[02-9AC-HJ-NP-Z]{58}", checks.is_bech32),
    _row("onepassword-token", "1Password service account token", "ops_eyJ", r"ops_eyJ[A-Za-z0-9_=-]{100,}"),
    _row(
        "onepassword-secret-key",
        "1Password secret key",
        "A3-",
        r"A3-[A-Z0-9]{6}-(?:[A-Z0-9]{6}-[A-Z0-9]{5}|[A-Z0-9]{11})(?:-[A-Z0-9]{5}){3}",
    ),
    _row("vault-token", "HashiCorp Vault token", "hvs. hvb. hvr.", r"hv[sbr]\.[A-Za-z0-9_-]{24,300}"),
    _row("terraform-token", "HCP Terraform token", "", r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{60,70}"),
    _row("vercel-token", "Vercel token", "vcp_ vci_ vca_ vcr_ vck_", r"vc[piark]_[A-Za-z0-9_-]{24,128}"),
    _row(
        "supabase-key",
        "Supabase secret key",
        "sb_secret_ sbp_",
        r"sb_secret_[A-Za-z0-9_-]{31,}|sbp_(?:v0_)?[0-9a-f]{40}",
    ),
    _row("databricks-token", "Databricks token", "dapi dose", r"(?:dapi|dose)[0-9a-f]{32}(?:-\d)?"),
    _row("linear-key", "Linear API key", "lin_api_ lin_oauth_", r"lin_(?:api_[A-Za-z0-9]{40}|oauth_[0-9a-f]{64})"),
    _row("notion-token", "Notion token", "ntn_ secret_", r"ntn_[A-Za-z0-9]{40,60}|secret_[A-Za-z0-9]{43}"),
    _row("mailgun-key", "Mailgun API key", "key-", r"key-[0-9a-f]{32}"),
    _row("cloudflare-token", "Cloudflare API token", "cfk_ cfut_ cfat_", r"cf(?:k|ut|at)_[A-Za-z0-9]{40}[0-9a-f]{8}"),
    _row("cloudflare-token", "Cloudflare origin CA key", "v1.0-", r"v1\.0-[0-9a-f]{24}-[0-9a-f]{146}"),
    _row("heroku-key", "Heroku API key", "HRKU-", rf"HRKU-(?:{_UUID}|AA[A-Za-z0-9_-]{{58}})"),
    _row("shopify-token", "Shopify token", "shpat_ shpca_ shppa_ shpss_", r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
    _row("atlassian-token", "Atlassian API token", "ATATT3 ATCTT3", r"AT[AC]TT3[A-Za-z0-9_=-]{60,400}"),
    _row("bitbucket-token", "Bitbucket app password", "ATBB", r"ATBB[A-Za-z0-9]{24}[0-9A-F]{8}"),
    _row("docker-token", "Docker access token", "dckr_pat_ dckr_oat_", r"dckr_[po]at_[A-Za-z0-9_-]{27,32}"),
    _row("azure-devops-token", "Azure DevOps token", "", r"[A-Za-z0-9]{52}JQQJ99[A-Za-z0-9]{18}AZDO[A-Za-z0-9]{4}"),
    _row("azure-client-secret", "Azure client secret", "", r"[A-Za-z0-9_~.-]{3}\dQ~[A-Za-z0-9_~.-]{31,34}"),
    _row(
        "grafana-token",
        "Grafana service account token",
        "glsa_",
        r"glsa_[A-Za-z0-9]{32}_[0-9a-fA-F]{8}",
        checks.has_hex_crc32,
    ),
    _row("new-relic-key", "New Relic user key", "NRAK-", r"NRAK-[A-Z0-9]{27}"),
    _row("sentry-token", "Sentry token", "sntrys_ sntryu_", r"sntrys_eyJ[A-Za-z0-9+/=_-]{80,}|sntryu_[0-9a-f]{64}"),
    _row("postman-key", "Postman API key", "PMAK-", r"PMAK-[0-9a-f]{24}-[0-9a-f]{34}"),
    _row("groq-key", "Groq API key", "gsk_", r"gsk_[A-Za-z0-9]{52}"),
    _row("xai-key", "xAI API key", "xai-", r"xai-[A-Za-z0-9]{80}"),
    _row("perplexity-key", "Perplexity API key", "pplx-", r"pplx-[A-Za-z0-9]{48}"),
    _row("replicate-token", "Replicate token", "r8_", r"r8_[A-Za-z0-9]{37}"),
    _row("tavily-key", "Tavily API key", "tvly-", r"tvly-(?:dev-|prod-)?[A-Za-z0-9]{32}"),
    _row("langsmith-key", "LangSmith API key", "lsv2_", r"lsv2_(?:pt|sk)_[0-9a-f]{32}_[0-9a-f]{10}"),
    _row("planetscale-token", "PlanetScale token", "pscale_", r"pscale_(?:tkn|pw|oauth)_[A-Za-z0-9_.=-]{32,64}"),
    _row("pulumi-token", "Pulumi access token", "pul-", r"pul-[0-9a-f]{40}"),
    _row(
        "doppler-token",
        "Doppler token",
        "dp.pt. dp.st. dp.ct. dp.sa.",
        r"dp\.(?:pt|ct|sa|st(?:\.[a-z0-9_-]{2,35})?)\.[A-Za-z0-9]{40,44}",
    ),
    _row("fly-token", "Fly.io token", "fo1_ FlyV1", r"fo1_[A-Za-z0-9_-]{43}"),
    _row("tailscale-key", "Tailscale key", "tskey-", r"tskey-(?:auth|api|client)-[A-Za-z0-9]{8,24}-[A-Za-z0-9]{20,48}"),
    _row("figma-token", "Figma token", "figd_", r"figd_[A-Za-z0-9_-]{38,44}"),
    _row("brevo-key", "Brevo API key", "xkeysib-", r"xkeysib-[0-9a-f]{64}-[A-Za-z0-9]{16}"),
    _row("square-token", "Square token", "sq0csp- EAAA", r"sq0csp-[A-Za-z0-9_-]{43}|EAAA[lE][A-Za-z0-9_-]{59}"),
    _row("artifactory-key", "Artifactory API key", "AKCp cmVmdG", r"AKCp[A-Za-z0-9]{69}|cmVmdG[A-Za-z0-9]{58}"),
    _row("telegram-token", "Telegram bot token", "AA", r"AA[A-Za-z0-9_-]{33}"),
    _row(
        "encoded-private-key",
        "private key in base64",
        "LS0tLS1CRUdJTi",
        r"LS0tLS1CRUdJTi[A-Za-z0-9]{80,}",
        checks.is_encoded_key,
    ),
    _row(
        "secret-broker-key",
        "key of a Secret Broker",
        "SECRET-BROKER-KEY-1 SECRET-BROKER-INTAKE-1",
        r"SECRET-BROKER-(?:KEY-1|INTAKE-1:\d{1,13}):[A-Za-z0-9_-]{43}",
    ),
    _row("secret-broker-token", "agent token of a Secret Broker", "sbt_", r"sbt_[a-z2-7]{8}_[0-9A-Za-z]{49}"),
)
"""Telegram's are found by what stands behind the colon; the bot's number before it is looked for as well. A form
without a beginning is found by what stands in its middle."""

MIDDLES: Final = {b".atlasv1.": "terraform-token", b"JQQJ99": "azure-devops-token", b"Q~": "azure-client-secret"}
"""What is looked for inside a run of characters where a form has no beginning of its own."""
