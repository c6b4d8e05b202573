/**
 * What it costs to know the caller and to ask what he may do, measured: Encrypt by a caller with a
 * certificate and a token that is bound to it, among {@link BINDINGS} role bindings, beside the
 * same server without identity and access.
 *
 * Both are served by the same code over the same database and token, at the same time, and are
 * called in turn. What the floor goes without is in `open-access.ts`; a client certificate is
 * required by TLS of both.
 */
import { X509Certificate } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { AUDIENCE, ISSUER, signingKey, tokenBy } from '../test/access/issuer.ts';
import { type Bench, encryptOf, say, warmUp } from './bench.ts';
import { BINDINGS, makeBindings } from './bindings.ts';
import type { Environment } from './environment.ts';
import { paragraph, target } from './markdown.ts';
import { alternate, type Load, type Row, type Timing } from './measure.ts';
import { rowTable } from './row-table.ts';
import { CONTEXT, TENANT, type Workload } from './workloads.ts';

const ACCESS_ROWS = {
  floor: 'Encrypt, callers unproven',
  thing: 'Encrypt with certificate, JWT and roles',
} as const;
const IN_FLIGHT = 64;
const ISSUER_NAME = 'bench';
const GROUPS = ['one', 'two', 'three', 'four', 'five'];
const SUBJECT = 'service';

interface Plan extends Timing {
  readonly warmUpMs: number;
}

const FULL: Plan = { rampMs: 150, measureMs: 700, rounds: 5, warmUpMs: 1_500 };
const QUICK: Plan = { rampMs: 20, measureMs: 100, rounds: 1, warmUpMs: 50 };
const OF_FLOOR = 0.9;

const METHOD = `
  The cost of knowing the caller and the caller's rights: Encrypt by a caller with a client
  certificate and a JWT that is bound to it, in a tenant with ${BINDINGS} role bindings, of which
  the last one read allows it, under a condition on the context. The floor is here the same server
  over the same database and token, with identity and access replaced as its modules are loaded:
  every caller is accepted unproven, and may do everything.`;

/** See this file's first paragraph. */
export const access: Bench = {
  name: 'access',
  title: 'Access',
  measures: "what it costs to know the caller and the caller's rights",
  async run(context) {
    say('access …');
    const { environment, load, isQuick } = context;
    const plan = isQuick ? QUICK : FULL;
    const rows = await measureAccess(environment, load, encryptOf(context), plan);
    const share =
      rows.find(({ name }) => name === ACCESS_ROWS.thing)?.ofFloor?.rate[0] ?? Number.NaN;
    const text =
      `${ACCESS_ROWS.thing} at ${IN_FLIGHT} in flight: ${share.toFixed(2)} of its rate without; ` +
      `to reach ${OF_FLOOR.toFixed(2)}`;
    return {
      text: [paragraph(METHOD), rowTable(rows)].join('\n\n'),
      targets: [target(share >= OF_FLOOR, text)],
    };
  },
};

/** Both rows, on the bench's environment, whose service is restarted for it. */
async function measureAccess(
  environment: Environment,
  load: Load,
  encrypt: Workload,
  timing: Plan,
): Promise<Row[]> {
  const owner = await environment.connectAsOwner();
  try {
    const groups = GROUPS.map((group) => `${ISSUER_NAME}/${group}`);
    const principal = `jwt:${ISSUER_NAME}/${SUBJECT}`;
    const condition = ['purpose', CONTEXT.purpose] as const;
    await makeBindings(environment, owner, TENANT, { principal, groups }, condition);
  } finally {
    await owner.end();
  }
  const { issuersFile, token } = writeIssuer(environment);
  await environment.restart({ KEYWARD_ISSUERS_FILE: issuersFile });
  await using open = await environment.startBeside({
    NODE_OPTIONS: `--import=${new URL('./without-access.ts', import.meta.url).href}`,
  });
  const floor = [open, { ...encrypt, name: ACCESS_ROWS.floor }] as const;
  const thing = [environment.target, { ...encrypt, name: ACCESS_ROWS.thing, token }] as const;
  // A token that fails where anybody looks at it.
  await warmUp(load, [[open, { ...floor[1], token: 'none' }], thing], timing.warmUpMs);
  return await alternate(load, floor, [thing], { ...timing, inFlight: IN_FLIGHT });
}

/** An issuer, trusted by the file, and a token of it that is bound to the bench's certificate. */
function writeIssuer({ client, directory }: Environment): { issuersFile: string; token: string } {
  const key = signingKey('bench');
  const jwksFile = join(directory, 'jwks.json');
  writeFileSync(jwksFile, JSON.stringify({ keys: [key.jwk] }));
  const issuersFile = join(directory, 'issuers.json');
  const issuer = {
    name: ISSUER_NAME,
    issuer: ISSUER,
    audience: AUDIENCE,
    algorithms: ['ES256'],
    jwksFile,
    claims: { tenants: 'tenants', groups: 'groups' },
  };
  writeFileSync(issuersFile, JSON.stringify({ issuers: [issuer] }));
  const { fingerprint256 } = new X509Certificate(readFileSync(client.certFile));
  const thumbprint = Buffer.from(fingerprint256.replaceAll(':', ''), 'hex').toString('base64url');
  const claims = {
    sub: SUBJECT,
    tenants: [TENANT],
    groups: GROUPS,
    cnf: { 'x5t#S256': thumbprint },
  };
  return { issuersFile, token: tokenBy(key, { claims }) };
}
