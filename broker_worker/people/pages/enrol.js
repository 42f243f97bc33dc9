// Asks the browser for a new key and hands its public half to the process that made this page.
"use strict";

const button = document.getElementById("register");
const status = document.getElementById("status");

function say(text, isBad = false) {
  status.textContent = text;
  status.className = isBad ? "bad" : "";
}

function toBytes(text) {
  const padded = text.replaceAll("-", "+").replaceAll("_", "/").padEnd(Math.ceil(text.length / 4) * 4, "=");
  return Uint8Array.from(atob(padded), (character) => character.charCodeAt(0));
}

function toText(buffer) {
  const binary = Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join("");
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

async function options() {
  const response = await fetch("options");
  if (!response.ok) {
    throw new Error("This link was used or is too old. The command in the terminal makes a new one.");
  }
  const wanted = await response.json();
  wanted.challenge = toBytes(wanted.challenge);
  wanted.user.id = toBytes(wanted.user.id);
  for (const known of wanted.excludeCredentials ?? []) {
    known.id = toBytes(known.id);
  }
  return wanted;
}

async function register() {
  const credential = await navigator.credentials.create({ publicKey: await options() });
  const answer = {
    id: credential.id,
    rawId: toText(credential.rawId),
    type: credential.type,
    response: {
      clientDataJSON: toText(credential.response.clientDataJSON),
      attestationObject: toText(credential.response.attestationObject),
    },
  };
  const response = await fetch("finish", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(answer),
  });
  if (!response.ok) {
    throw new Error(await response.text());
  }
}

button.addEventListener("click", async () => {
  button.disabled = true;
  say("Your browser asks for your key…");
  try {
    await register();
    say("Registered. The terminal shows the rest; you can close this page.");
  } catch (error) {
    const reasons = {
      NotAllowedError: "No key was registered: it was cancelled, took too long, or nobody was verified.",
      InvalidStateError: "This key is registered already.",
    };
    say(reasons[error.name] ?? error.message, true);
    button.disabled = false;
  }
});

if (window.PublicKeyCredential) {
  button.disabled = false;
} else {
  say("This browser has no support for keys (WebAuthn).", true);
}
