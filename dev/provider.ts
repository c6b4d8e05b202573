/**
 * The OpenID provider of the development environment: oidc-provider, with the people of
 * `people.ts`, on a loopback port.
 *
 * - Its keys and its sessions are kept in files, so that a sign-in outlasts a new start.
 * - Its access tokens are JWTs (RFC 9068) for the service alone, and carry acr, amr and auth_time.
 *   They are marked as for development, so that no server in production accepts them.
 * - It asks for no password: whoever reaches the port may be anybody.
 */
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import Provider, {
  type Configuration,
  interactionPolicy,
  type JWK,
  type KoaContextWithOIDC,
  type interactionPolicy as Policy,
} from 'oidc-provider';
import { newSecret, readJsonIfThere, writePrivateJson } from './files.ts';
import { CLIENT_ID, FACTORS, PEOPLE } from './people.ts';
import { interact, PAGES } from './provider-pages.ts';
import { recordsIn } from './provider-records.ts';

const AUDIENCE = 'keyward';
const ALGORITHM = 'ES256';
const TOKEN_LIFETIME_SECONDS = 900;
const SESSION_SECONDS = 14 * 86_400;

/** A provider that runs. */
export interface DevelopmentProvider extends AsyncDisposable {
  /** Its `iss`. */
  readonly issuer: string;
}

/** Where the provider is, and what is kept of it. */
export interface ProviderOptions {
  /** The folder of its keys and of what it remembers. */
  readonly folder: string;
  /** The first port to try; 0 for any. */
  readonly port: number;
  readonly portsTried?: number;
  /** How long access tokens are good for. */
  readonly tokenLifetimeSeconds?: number;
}

interface Kept {
  readonly signing: JWK;
  readonly cookies: string;
}

/** Starts it on the first free port. */
export async function startProvider({
  folder,
  port,
  portsTried = 1,
  tokenLifetimeSeconds = TOKEN_LIFETIME_SECONDS,
}: ProviderOptions): Promise<DevelopmentProvider> {
  const server = createServer();
  await listen(server, port, portsTried);
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const settings = {
    ...configuration(keptIn(join(folder, 'keys.json')), tokenLifetimeSeconds),
    adapter: recordsIn(join(folder, 'records.json')),
  };
  server.on('request', answering(issuer, settings));
  return {
    issuer,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      server.close();
    },
  };
}

async function listen(server: Server, first: number, tried: number): Promise<void> {
  for (let port = first; ; port += 1) {
    server.listen(port, '127.0.0.1');
    try {
      await once(server, 'listening');
      return;
    } catch (error) {
      const isTaken = (error as NodeJS.ErrnoException).code === 'EADDRINUSE';
      if (!isTaken || port + 1 >= first + tried) throw error;
    }
  }
}

function answering(issuer: string, settings: Configuration): RequestListener {
  const provider = new Provider(issuer, settings);
  // It reports to its listeners what it answers with an error page anyway.
  provider.on('server_error', (_ctx, error) => console.error(`The OpenID provider: ${error}`));
  const protocol = provider.callback();
  return (request, response) => {
    if (request.url?.startsWith('/interaction/')) void interact(provider, request, response);
    else void protocol(request, response);
  };
}

function keptIn(file: string): Kept {
  const kept = readJsonIfThere<Kept>(file);
  if (kept !== undefined) return kept;
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const jwk = privateKey.export({ format: 'jwk' });
  const made = {
    signing: { ...jwk, kty: 'EC', kid: randomUUID(), alg: ALGORITHM, use: 'sig' },
    cookies: newSecret(),
  };
  writePrivateJson(file, made);
  return made;
}

function configuration({ signing, cookies }: Kept, lifetime: number): Configuration {
  return {
    clients: [
      {
        client_id: CLIENT_ID,
        application_type: 'native',
        token_endpoint_auth_method: 'none',
        id_token_signed_response_alg: ALGORITHM,
        grant_types: [
          'authorization_code',
          'refresh_token',
          'urn:ietf:params:oauth:grant-type:device_code',
        ],
        response_types: ['code'],
        redirect_uris: ['http://127.0.0.1/callback'],
      },
    ],
    jwks: { keys: [signing] },
    cookies: { keys: [cookies] },
    acrValues: Object.values(FACTORS).map(({ acr }) => acr),
    findAccount: (_ctx, sub) =>
      PEOPLE.some(({ id }) => id === sub) ? { accountId: sub, claims: () => ({ sub }) } : undefined,
    claims: { openid: ['sub'], acr: null, amr: null, auth_time: null },
    interactions: { policy: alwaysAsking(), url: (_ctx, { uid }) => `/interaction/${uid}` },
    loadExistingGrant: grantAll,
    issueRefreshToken: (_ctx, client) => client.grantTypeAllowed('refresh_token'),
    expiresWithSession: () => false,
    extraTokenClaims: (ctx) => ({ keyward_development: true, ...proofOf(ctx) }),
    ttl: {
      AccessToken: lifetime,
      AuthorizationCode: 60,
      DeviceCode: 600,
      Grant: SESSION_SECONDS,
      IdToken: lifetime,
      Interaction: 600,
      RefreshToken: SESSION_SECONDS,
      Session: SESSION_SECONDS,
    },
    renderError: PAGES.error,
    features: {
      devInteractions: { enabled: false },
      deviceFlow: {
        enabled: true,
        userCodeInputSource: PAGES.userCodeInput,
        userCodeConfirmSource: PAGES.userCodeConfirm,
        successSource: PAGES.deviceSuccess,
      },
      revocation: {
        enabled: true,
        allowedPolicy: (_ctx, { clientId }, token) => token.clientId === clientId,
      },
      rpInitiatedLogout: { enabled: false },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: () => ({
          audience: AUDIENCE,
          scope: '',
          accessTokenFormat: 'jwt',
          accessTokenTTL: lifetime,
          jwt: { sign: { alg: ALGORITHM } },
        }),
      },
    },
  };
}

/**
 * Asks at every sign-in who it is, whoever had signed in before in that browser; and for no
 * consent.
 */
function alwaysAsking(): Policy.DefaultPolicy {
  const policy = interactionPolicy.base();
  policy.remove('consent');
  const asked = new interactionPolicy.Check('asked', 'who signs in is asked', ({ oidc }) =>
    oidc.result?.login === undefined
      ? interactionPolicy.Check.REQUEST_PROMPT
      : interactionPolicy.Check.NO_NEED_TO_PROMPT,
  );
  policy.get('login')?.checks.add(asked);
  return policy;
}

async function grantAll({ oidc }: KoaContextWithOIDC) {
  const { client, session, provider } = oidc;
  if (client === undefined || session?.accountId === undefined) return undefined;
  const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
  grant.addOIDCScope('openid offline_access');
  await grant.save();
  return grant;
}

/** What an access token says of its person and of how they signed in. */
function proofOf({ oidc }: KoaContextWithOIDC) {
  const { AuthorizationCode, DeviceCode, RefreshToken } = oidc.entities;
  const source = AuthorizationCode ?? DeviceCode ?? RefreshToken;
  const person = PEOPLE.find(({ id }) => id === source?.accountId);
  return {
    acr: source?.acr,
    amr: source?.amr,
    auth_time: source?.authTime,
    groups: person === undefined ? [] : [person.group],
  };
}
