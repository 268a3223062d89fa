// A certified OpenID Connect provider (panva's oidc-provider), with a page that signs in whoever it is told to.
// One argument, JSON: issuer, port, certificate, key, keys (JWKS), client (what is registered), and nothing else.

import { readFileSync } from "node:fs";
import { createServer } from "node:https";
import { Provider } from "oidc-provider";

const settings = JSON.parse(process.argv[2]);
const provider = new Provider(settings.issuer, {
  clients: [settings.client],
  jwks: settings.keys,
  cookies: { keys: ["a key of the tests"] },
  acrValues: ["gold", "bronze"],
  claims: { openid: ["sub", "acr", "amr", "auth_time"], profile: ["preferred_username"], email: ["email", "email_verified"] },
  features: { devInteractions: { enabled: false }, backchannelLogout: { enabled: true } },
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  pkce: { required: () => true },
  // Its own guard lets it tell no server at a loopback address of logouts, and it gives up after 2.5 s.
  fetch: (url, options) => fetch(url, { ...options, dispatcher: undefined, signal: AbortSignal.timeout(30_000) }),
  findAccount: (_, id) => ({
    accountId: id,
    claims: () => ({ sub: `id-of-${id}`, preferred_username: id, email: `${id}@example.org`, email_verified: id !== "nora" }),
  }),
  async loadExistingGrant(ctx) {
    const grant = new ctx.oidc.provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId });
    grant.addOIDCScope("openid profile email");
    await grant.save();
    return grant;
  },
});
provider.on("server_error", (_, error) => console.error(error));
provider.on("backchannel.error", (_, error) => console.error("back-channel", error));

async function interaction(request, response) {
  await provider.interactionDetails(request, response);
  if (request.method === "GET") {
    response.setHeader("content-type", "text/html");
    response.end('<!doctype html><title>Provider</title><form method="post"><label>Who <input name="who"></label>'
      + '<label>By <input name="by" value="pwd otp mfa"></label><label>Class <input name="class"></label><button>Go</button></form>');
    return;
  }
  let body = "";
  for await (const piece of request) body += piece;
  const form = new URLSearchParams(body);
  if (form.get("who") === "") {
    await provider.interactionFinished(request, response, { error: "access_denied" });
    return;
  }
  const login = { accountId: form.get("who"), amr: form.get("by").split(" "), acr: form.get("class") || undefined };
  await provider.interactionFinished(request, response, { login }, { mergeWithLastSubmission: false });
}

const answer = provider.callback();
createServer({ cert: readFileSync(settings.certificate), key: readFileSync(settings.key) }, (request, response) => {
  if (request.url.startsWith("/interaction/")) {
    interaction(request, response).catch((error) => { response.statusCode = 500; response.end(String(error)); });
  } else answer(request, response);
}).listen(settings.port, "127.0.0.1", () => console.log("ready"));
