/**
 * What the tests of access share: callers of every kind, calls of any method by its name, answers
 * down to their bytes, and role bindings made over the wire.
 *
 * Requests are given as JavaScript objects in the contract's shape and answers compared without
 * what differs from call to call, the request's id. Knows no test.
 */
import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import type { ClientHttp2Session } from 'node:http2';
import { join } from 'node:path';
import type { MethodDefinition, ServiceDefinition } from '@grpc/grpc-js';
import type { Credentials } from '../../dev/certificates.ts';
import { packageDefinition } from '../../src/faces/contract/proto.ts';
import { askAsJson } from '../faces/http/as-json.ts';
import { call, grpcFrame, openSession } from '../faults/http2.ts';
import { runSql } from '../store/database.ts';
import { type Environment, newEnvironment, type Service, startService } from '../support/kit.ts';
import { TESTER } from '../support/tester.ts';
import { AUDIENCE, ISSUER, type SigningKey, signingKey, tokenBy } from './issuer.ts';
import { type Outcome, outcomeOf } from './outcome.ts';

/** A method of the contract. */
export interface Rpc {
  /** `KeyService/CreateKey`. */
  readonly name: string;
  readonly definition: MethodDefinition<object, object>;
}

/** Every method of every service of the contract. */
export const RPCS: readonly Rpc[] = Object.entries(packageDefinition)
  .filter(([name, definition]) => name.startsWith('keyward.v1.') && !('format' in definition))
  .flatMap(([service, definition]) =>
    Object.entries(definition as ServiceDefinition).map(([method, each]) => ({
      name: `${service.replace('keyward.v1.', '')}/${method}`,
      definition: each as MethodDefinition<object, object>,
    })),
  );

/** What goes on until its deadline: its calls get one. */
const ENDLESS: ReadonlySet<string> = new Set(['ApprovalService/WatchPendingOperations']);

/** What a call comes with. */
export interface Caller {
  readonly credentials?: Credentials;
  readonly token?: string;
}

/** What to give besides a member and a role. */
export type BindingChanges = Readonly<Record<string, unknown>>;

/**
 * An environment whose service takes certificates and tokens, and whose tester may do everything.
 */
export class AccessRig implements AsyncDisposable {
  readonly environment: Environment;
  readonly issuerKey: SigningKey;
  readonly services: Service[] = [];
  readonly #variables: Readonly<Record<string, string>>;
  readonly #sessions = new Map<string, ClientHttp2Session & Disposable>();
  readonly #certificates = new Map<string, Credentials>();
  #asked = 0;

  private constructor(
    environment: Environment,
    issuerKey: SigningKey,
    variables: Readonly<Record<string, string>>,
  ) {
    this.environment = environment;
    this.issuerKey = issuerKey;
    this.#variables = variables;
  }

  /**
   * One service, with these settings besides, and the tenants `acme` and `beta` with a key `k`
   * each.
   */
  static async start(variables: Readonly<Record<string, string>> = {}): Promise<AccessRig> {
    const environment = await newEnvironment();
    const key = signingKey('key-1');
    const path = (name: string) => join(environment.directory, name);
    writeFileSync(path('jwks.json'), JSON.stringify({ keys: [key.jwk] }));
    writeFileSync(path('deny'), '# none\n');
    const issuer = {
      name: 'corp',
      issuer: ISSUER,
      audience: AUDIENCE,
      algorithms: ['ES256'],
      jwksFile: path('jwks.json'),
      claims: { principal: 'sub', tenants: 'tenants', groups: 'groups' },
    };
    const unlimited = {
      ...issuer,
      name: 'open',
      issuer: 'https://open.test/',
      claims: { principal: 'sub' },
    };
    writeFileSync(path('issuers.json'), JSON.stringify({ issuers: [issuer, unlimited] }));
    const rig = new AccessRig(environment, key, {
      KEYWARD_HTTP_LISTEN: '127.0.0.1:0',
      KEYWARD_ISSUERS_FILE: path('issuers.json'),
      KEYWARD_CERTIFICATE_DENY_FILE: path('deny'),
      ...variables,
    });
    await rig.addReplica();
    for (const tenantId of ['acme', 'beta']) {
      await rig.done('AdminService/CreateTenant', { tenantId });
      await rig.done('KeyService/CreateKey', { parent: `tenants/${tenantId}`, keyId: 'k' });
    }
    return rig;
  }

  /** Another service on the same database and token. */
  async addReplica(variables: Readonly<Record<string, string>> = {}): Promise<Service> {
    const service = await startService(this.environment, { ...this.#variables, ...variables });
    this.services.push(service);
    return service;
  }

  get service(): Service {
    const [first] = this.services;
    assert.ok(first);
    return first;
  }

  /** Who may do everything. */
  get tester(): Caller {
    return this.certified(TESTER);
  }

  /** A caller by a certificate with that URI. */
  certified(uri: string): Caller {
    const known = this.#certificates.get(uri);
    const credentials =
      known ?? this.environment.ca.issue({ subject: 'x', usage: 'client', uris: [uri] });
    this.#certificates.set(uri, credentials);
    return { credentials };
  }

  /** A caller by a token with these claims, of the issuer `corp`, good for these tenants. */
  tokened(subject: string, tenants: readonly string[], claims: object = {}): Caller {
    return { token: tokenBy(this.issuerKey, { claims: { sub: subject, tenants, ...claims } }) };
  }

  /** A caller by a token of the issuer `open`, whose tokens name no tenants. */
  unlimited(subject: string, claims: object = {}): Caller {
    return {
      token: tokenBy(this.issuerKey, {
        claims: { iss: 'https://open.test/', sub: subject, ...claims },
      }),
    };
  }

  /** That token, bound to that caller's certificate. */
  bound(
    subject: string,
    tenants: readonly string[],
    { credentials }: Caller,
    claims: object = {},
  ): Caller {
    assert.ok(credentials);
    const digest = new X509Certificate(credentials.certPem).fingerprint256.replaceAll(':', '');
    const cnf = { 'x5t#S256': Buffer.from(digest, 'hex').toString('base64url') };
    return { credentials, ...this.tokened(subject, tenants, { cnf, ...claims }) };
  }

  /** Puts a certificate on the deny list, or takes all off. */
  deny(caller?: Caller): void {
    const line =
      caller?.credentials === undefined
        ? '# none'
        : new X509Certificate(caller.credentials.certPem).fingerprint256;
    writeFileSync(join(this.environment.directory, 'deny'), `${line}\n`);
  }

  /**
   * Makes a call, by default to the first service: of two, one over gRPC and one as JSON over HTTP,
   * so that what a test says of calls is held by both listeners.
   */
  ask(
    caller: Caller,
    name: string,
    request: object = {},
    service = this.service,
  ): Promise<Outcome> {
    this.#asked += 1;
    return this.#asked % 2 === 1
      ? this.askByGrpc(caller, name, request, { service })
      : this.askByHttp(caller, name, request, service);
  }

  /** Makes a call over gRPC. */
  async askByGrpc(
    caller: Caller,
    name: string,
    request: object = {},
    {
      service = this.service,
      headers = {},
    }: { readonly service?: Service; readonly headers?: Readonly<Record<string, string>> } = {},
  ): Promise<Outcome> {
    const rpc = RPCS.find((each) => each.name === name);
    assert.ok(rpc, name);
    const { definition } = rpc;
    const authorization =
      caller.token === undefined ? {} : { authorization: `Bearer ${caller.token}` };
    const answer = await call(this.#session(caller, service.port), {
      path: definition.path,
      headers: {
        ...authorization,
        ...(ENDLESS.has(name) ? { 'grpc-timeout': '1S' } : {}),
        ...headers,
      },
      body: [grpcFrame(definition.requestSerialize(request))],
    });
    return outcomeOf(answer, definition);
  }

  /** Makes a call as JSON over HTTP. */
  async askByHttp(
    caller: Caller,
    name: string,
    request: object = {},
    service = this.service,
  ): Promise<Outcome> {
    const rpc = RPCS.find((each) => each.name === name);
    assert.ok(rpc, name);
    const { definition } = rpc;
    const authorization =
      caller.token === undefined ? {} : { authorization: `Bearer ${caller.token}` };
    const session = this.#session(caller, service.httpPort);
    const limit = ENDLESS.has(name) ? { 'connect-timeout-ms': '1000' } : {};
    return askAsJson(session, definition, request, { ...authorization, ...limit });
  }

  /** Makes a call that must succeed, by the tester unless said otherwise. */
  async done(name: string, request: object, caller = this.tester): Promise<Outcome['answer']> {
    const { reason, message, answer } = await this.ask(caller, name, request);
    assert.equal(reason, 'OK', `${name}: ${message}`);
    return answer;
  }

  /** Gives a role in a tenant, by its id, to a principal, and returns the binding's name. */
  async bind(
    tenant: string,
    principal: string,
    role: string,
    changes: BindingChanges = {},
  ): Promise<string> {
    const { name } = await this.done('AccessService/CreateRoleBinding', {
      parent: `tenants/${tenant}`,
      roleBinding: bindingOf(principal, role, changes),
    });
    return String(name);
  }

  /**
   * What the audit log has of changes and of failures since it had `from` of them, oldest first.
   */
  async audited(from = 0): Promise<AuditRow[]> {
    const rows = await runSql<AuditRow>(
      this.environment.urls.superuser,
      `SELECT t.name AS tenant, a.caller, a.method, a.resource, a.outcome, a.detail, a.entry -> 'change' AS change,
         coalesce((a.entry ->> 'count')::integer, 1) AS count,
         a.request_id AS "requestId"
       FROM audit_entries a JOIN tenants t USING (tenant_id) WHERE a.entry_id IS NOT NULL OR a.outcome <> 'OK' OR a.detail LIKE '%"missing"%' ORDER BY a.at, a.entry_id`,
    );
    return rows.slice(from);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const session of this.#sessions.values()) session.destroy();
    for (const service of this.services) await service.stop();
    await this.environment[Symbol.asyncDispose]();
  }

  #session({ credentials }: Caller, port: number): ClientHttp2Session {
    const id = `${port} ${credentials?.certPem}`;
    const known = this.#sessions.get(id);
    if (known !== undefined && !known.closed && !known.destroyed) return known;
    const own =
      credentials === undefined ? {} : { cert: credentials.certPem, key: credentials.keyPem };
    const session = openSession({ port, ca: this.environment.ca.certPem, ...own });
    this.#sessions.set(id, session);
    return session;
  }
}

/** One entry of the audit log. */
export interface AuditRow {
  readonly tenant: string;
  readonly caller: string;
  readonly method: string;
  readonly resource: string;
  readonly outcome: string;
  readonly detail: string;
  /** How many calls it stands for. */
  readonly count: number;
  readonly change: { readonly after?: Readonly<Record<string, unknown>> } | null;
  readonly requestId: string;
}

/**
 * A role binding as a request has it; a member that is in `changes` takes the principal's place.
 */
export function bindingOf(principal: string, role: string, changes: BindingChanges = {}): object {
  const member = 'group' in changes ? {} : { principal };
  return { ...member, role: role.includes('/') ? role : `roles/${role}`, ...changes };
}
