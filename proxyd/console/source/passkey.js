// Security keys: a form gets what a key answered before it is sent. Without this a code does the same.
// The options come from the page or from the console; bytes in them are base64url, as in what is sent back.

const bytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (mark) => mark.charCodeAt(0));
const text = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
const named = (keys) => keys.map((key) => ({ ...key, id: bytes(key.id) }));

const SAID = {
  InvalidStateError: "You have added this key already.",
  NotAllowedError: "No key was used in time, or it was refused. Try again.",
  NotSupportedError: "This key can't do what is asked of it. Try another.",
  SecurityError: "This browser uses no keys at this address.",
};

async function made(options) {
  const publicKey = {
    ...options,
    challenge: bytes(options.challenge),
    user: { ...options.user, id: bytes(options.user.id) },
    excludeCredentials: named(options.excludeCredentials),
  };
  const key = await navigator.credentials.create({ publicKey });
  return answered(key, { attestationObject: text(key.response.attestationObject) });
}

async function signed(options) {
  const publicKey = {
    ...options,
    challenge: bytes(options.challenge),
    allowCredentials: named(options.allowCredentials),
  };
  const key = await navigator.credentials.get({ publicKey });
  const { authenticatorData, signature } = key.response;
  return answered(key, { authenticatorData: text(authenticatorData), signature: text(signature) });
}

const answered = (key, more) =>
  JSON.stringify({
    id: key.id,
    rawId: text(key.rawId),
    type: key.type,
    response: { clientDataJSON: text(key.response.clientDataJSON), ...more },
  });

function say(form, sentence) {
  let place = document.querySelector("[data-key-said]") ?? form.querySelector("[role=alert]");
  if (!place) {
    place = document.createElement("p");
    place.className = "notice bad";
    place.setAttribute("role", "alert");
    form.append(place);
  }
  place.textContent = sentence;
  place.hidden = !sentence;
}

// What `answer` gives goes into a field, then the form goes off as if its button had been pressed again.
async function fill(form, field, submitter, answer) {
  say(form, "");
  form.setAttribute("aria-busy", "true");
  try {
    field.value = await answer();
    form.requestSubmit(submitter);
  } catch (error) {
    say(form, SAID[error.name] ?? "The key can't be used here. Use a code.");
  } finally {
    form.removeAttribute("aria-busy");
  }
}

for (const form of document.querySelectorAll("form[data-ceremony]")) {
  const options = JSON.parse(form.dataset.options);
  const use = form.dataset.ceremony === "create" ? made : signed;
  const begin = () => fill(form, form.elements.answer, null, () => use(options));
  form.addEventListener("submit", (event) => {
    if (form.elements.answer.value) return;
    event.preventDefault();
    if (!form.hasAttribute("aria-busy")) begin();
  });
  begin();
}

for (const field of document.querySelectorAll("input[data-prove]")) {
  const form = field.form;
  form.addEventListener("submit", (event) => {
    if (form.elements.code.value || field.value) return;
    event.preventDefault();
    if (form.hasAttribute("aria-busy")) return;
    fill(form, field, event.submitter, async () => {
      const body = new URLSearchParams({ form_token: form.elements.form_token.value });
      const given = await fetch(field.dataset.prove, { method: "POST", body });
      if (!given.ok) throw new Error("no challenge");
      return signed(await given.json());
    });
  });
}
