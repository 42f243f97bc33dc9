// Signing a decision with the person's own authenticator (WebAuthn), and cards that change as others decide.
"use strict";

function bytes(text) {
  const raw = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(raw, (letter) => letter.charCodeAt(0));
}

function text(buffer) {
  const raw = String.fromCharCode(...new Uint8Array(buffer));
  return btoa(raw).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

async function post(address, fields) {
  const csrf = document.getElementById("waiting").dataset.csrf;
  const answer = await fetch(address, {
    method: "POST",
    headers: { Accept: "application/json" },
    body: new URLSearchParams({ ...fields, csrf }),
  });
  if (answer.ok) return answer;
  if (answer.status === 401) throw new Error("the session is over; log in again");
  const told = await answer.json().catch(() => ({ error: `the dashboard answered ${answer.status}` }));
  throw new Error(told.hint ? `${told.error} (${told.hint})` : told.error);
}

function show(html) {
  const holder = document.createElement("template");
  holder.innerHTML = html.trim();
  const card = holder.content.firstElementChild;
  const known = document.getElementById(card.id);
  const isWaiting = card.dataset.state === "waiting";
  if (known && isWaiting && known.contains(document.activeElement)) return; // somebody is at it
  if (known && known.parentElement.id === (isWaiting ? "waiting" : "settled")) known.replaceWith(card);
  else {
    known?.remove();
    document.getElementById(isWaiting ? "waiting" : "settled").prepend(card);
  }
}

function inWords(error) {
  if (error.name === "NotAllowedError") return "Nothing was signed: it was cancelled, took too long, or you were not verified.";
  if (error.name === "SecurityError") return "The browser does not allow passkeys at this address; visit the dashboard by its name.";
  if (error.name === "InvalidStateError" || error.name === "NotSupportedError") return `The authenticator cannot do this: ${error.message}`;
  return `Not decided: ${error.message}`;
}

document.addEventListener("submit", async (event) => {
  const form = event.target.closest("form.decide");
  if (!form) return;
  event.preventDefault();
  const status = form.querySelector("[role=status]");
  const verdict = event.submitter?.value ?? "approve";
  const reason = form.elements.reason;
  const controls = [...form.querySelectorAll("button, input, select")];
  if (verdict === "deny" && !reason.value.trim()) {
    status.textContent = "Say why you deny it.";
    reason.focus();
    return;
  }
  const fields = { verdict, approver: form.elements.approver.value, reason: reason.value };
  const address = `/approvals/${form.dataset.approval}`;
  for (const control of controls) control.disabled = true;
  try {
    status.textContent = "Waiting for your authenticator …";
    const asked = await (await post(`${address}/challenge`, fields)).json();
    const signed = await navigator.credentials.get({
      publicKey: {
        challenge: bytes(asked.challenge),
        rpId: asked.rpId,
        allowCredentials: asked.credentials.map((id) => ({ type: "public-key", id: bytes(id) })),
        userVerification: "required",
        timeout: asked.timeout,
      },
    });
    status.textContent = "Handing it over …";
    const answer = await post(`${address}/decision`, {
      challenge: asked.challenge,
      credential_id: text(signed.rawId),
      authenticator_data: text(signed.response.authenticatorData),
      client_data_json: text(signed.response.clientDataJSON),
      signature: text(signed.response.signature),
    });
    document.activeElement?.blur();
    show(await answer.text());
  } catch (error) {
    status.textContent = inWords(error);
  } finally {
    for (const control of controls) control.disabled = false;
  }
});

document.addEventListener("htmx:sseBeforeMessage", (event) => {
  if (!event.target.matches("[data-matters]")) return;
  event.preventDefault();
  show(event.detail.data);
});
