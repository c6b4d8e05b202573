/**
 * Callers by tokens of Kubernetes' service accounts, in exactly their form, on a real service: the
 * cluster's endpoint for keys wants a token of its own.
 */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { connect } from 'keyward-client';
import { createCertificateAuthority } from '../../dev/certificates.ts';
import { parseIssuers } from '../../src/access/issuers.ts';
import {
  type Environment,
  eventually,
  newEnvironment,
  reasonOf,
  type Service,
  startService,
} from '../support/kit.ts';
import { type Endpoint, signingKey, startEndpoint, type TokenChanges, tokenBy } from './issuer.ts';

const ISSUER = 'https://kubernetes.default.svc.cluster.local';
const key = signingKey('DHqXIj4ZlQ5j0IrJzGzmX1nOQqJ6XJHvTRx0mPrvzcE', 'RS256');
const next = signingKey('kQ2mJ0s3vUO0gG1y8C4J5mYQ9bYw6p1m2m7n8x0v9Zs', 'RS256');

let environment: Environment;
let endpoint: Endpoint;
let service: Service;
/** What the endpoint wants. */
let wanted = 'of.the.first';
let tokenFile: string;

/** As the TokenRequest API makes it for a pod, for the audience `keyward`. */
function podToken({ claims, ...changes }: TokenChanges = {}, signer = key): string {
  const now = Math.floor(Date.now() / 1000);
  const pod = {
    aud: ['keyward'],
    exp: now + 3600,
    iat: now,
    iss: ISSUER,
    jti: randomUUID(),
    'kubernetes.io': {
      namespace: 'orders',
      node: { name: 'node-1', uid: randomUUID() },
      pod: { name: 'api-7d9c5b8f6d-x2x4z', uid: randomUUID() },
      serviceaccount: { name: 'api', uid: randomUUID() },
    },
    nbf: now,
    sub: 'system:serviceaccount:orders:api',
  };
  return tokenBy(signer, {
    header: { alg: 'RS256', kid: signer.kid, typ: undefined },
    claims: { ...pod, ...(claims as object) },
    ...changes,
  });
}

async function callerBy(token: string) {
  using keyward = connect({
    address: `127.0.0.1:${service.port}`,
    ca: environment.ca.certPem,
    token,
    retries: 0,
  });
  return await keyward.getCaller();
}

before(async () => {
  environment = await newEnvironment();
  const inside = (name: string) => join(environment.directory, name);
  const ca = createCertificateAuthority('kubernetes');
  endpoint = await startEndpoint(
    [key],
    ca.issue({ subject: 'kube-apiserver', usage: 'server', ips: ['127.0.0.1'] }),
  );
  endpoint.answer = (request: IncomingMessage, response: ServerResponse) => {
    if (request.headers.authorization !== `Bearer ${wanted}`) return response.writeHead(401).end();
    response.setHeader('content-type', 'application/jwk-set+json');
    return response.end(JSON.stringify({ keys: endpoint.keys }));
  };
  writeFileSync(inside('cluster-ca.pem'), ca.certPem);
  tokenFile = inside('cluster-token');
  writeFileSync(tokenFile, `${wanted}\n`);
  const issuer = {
    name: 'cluster',
    issuer: ISSUER,
    audience: 'keyward',
    type: null,
    algorithms: ['RS256'],
    jwksUrl: endpoint.url,
    jwksCaFile: inside('cluster-ca.pem'),
    jwksTokenFile: tokenFile,
    claims: { groups: ['kubernetes.io', 'namespace'] },
  };
  writeFileSync(inside('issuers.json'), JSON.stringify({ issuers: [issuer] }));
  service = await startService(environment, { KEYWARD_ISSUERS_FILE: inside('issuers.json') });
});

after(async () => {
  await service?.stop();
  await endpoint?.[Symbol.asyncDispose]();
  await environment?.[Symbol.asyncDispose]();
});

test('a service account calls by its name, with its namespace as a group', async () => {
  const { name, groups } = await callerBy(podToken());
  assert.equal(name, 'jwt:cluster/system:serviceaccount:orders:api');
  assert.deepEqual(groups, ['cluster/orders']);
});

test('a token for the cluster too, of a year, or with a typ is refused', async () => {
  const year = Math.floor(Date.now() / 1000) + 365 * 86_400;
  const bad = [
    { claims: { aud: ['keyward', 'https://kubernetes.default.svc'] } },
    { claims: { aud: ['https://kubernetes.default.svc'] } },
    { claims: { exp: year } },
    { header: { alg: 'RS256', kid: key.kid, typ: 'JWT' } },
  ];
  for (const changes of bad)
    assert.equal(await reasonOf(callerBy(podToken(changes))), 'CREDENTIALS_INVALID');
});

test('the cluster’s token is read anew for each request, as it is renewed', async () => {
  wanted = 'of.the.second';
  endpoint.keys = [key.jwk, next.jwk];
  const unknown = podToken({}, next);
  // The endpoint refuses the token in the file, so the new key is not known.
  assert.equal(await reasonOf(callerBy(unknown)), 'CREDENTIALS_INVALID');
  writeFileSync(`${tokenFile}.new`, wanted);
  renameSync(`${tokenFile}.new`, tokenFile);
  await eventually(() => callerBy(unknown));
  assert.ok(!JSON.stringify(service.log).includes('of.the'), 'no log line has it');
});

test('the example in docs/access.md for a cluster is an issuer', () => {
  const inside = (name: string) => join(environment.directory, name);
  const text = readFileSync(new URL('../../docs/access.md', import.meta.url), 'utf8');
  const page = text.replaceAll(
    /"\/var\/run\/secrets\/kubernetes\.io\/serviceaccount\/(ca\.crt|token)"/g,
    (_, name) => JSON.stringify(name === 'token' ? tokenFile : inside('cluster-ca.pem')),
  );
  const [, example = ''] = /#### Kubernetes.*?```json\n(.*?)```/s.exec(page) ?? [];
  const [issuer] = parseIssuers(`{"issuers": [${example}]}`);
  assert.deepEqual([issuer?.type, issuer?.audience], [null, 'keyward']);
});
