// A provider of OpenID Connect with everybody in it, whose ID tokens live for as many seconds as the argument says.
// Prints its issuer.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(pathToFileURL(process.env.NODE_PATH + "/"));
const { default: Provider } = await import(pathToFileURL(require.resolve("oidc-provider")));
const life = Number(process.argv[2] ?? 3600);
const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{
      client_id: "portcullis",
      application_type: "native",
      token_endpoint_auth_method: "none",
      grant_types: ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
      redirect_uris: ["http://127.0.0.1/"],
    }],
    claims: { openid: ["sub"], profile: ["preferred_username"], email: ["email", "email_verified"] },
    // What is known of somebody stands in the ID token, too, as with most providers.
    conformIdTokenClaims: false,
    features: { deviceFlow: { enabled: true }, revocation: { enabled: true }, devInteractions: { enabled: true } },
    pkce: { required: () => true },
    ttl: { IdToken: life, AccessToken: 3600, RefreshToken: 3600, Session: 3600, Grant: 3600, Interaction: 600, DeviceCode: 600, AuthorizationCode: 60 },
    async findAccount(_, id) {
      const verified = !id.startsWith("unverified");
      const claims = { sub: id, preferred_username: id, email: `${id}@example.org`, email_verified: verified };
      return { accountId: id, claims: async () => claims };
    },
  });
  server.on("request", provider.callback());
  console.log(issuer);
});
