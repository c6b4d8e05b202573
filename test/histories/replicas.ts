/**
 * Replicas on one environment, each with a link of its own to the database, and all that can go
 * wrong with them.
 *
 * Invariant: what goes wrong is over after a time, whatever becomes of the calls. Knows no model.
 */
import { connect as connectClient, type KeywardClient } from 'keyward-client';
import type { Credentials } from '../../dev/certificates.ts';
import { type FaultyProxy, startProxy } from '../store/proxy.ts';
import { type Environment, newEnvironment, type Service, startService } from '../support/kit.ts';
import type { Fault } from './plan.ts';

const SETTINGS = { KEYWARD_DATABASE_POOL: '10', KEYWARD_HSM_AGENTS: '1' };
/** So many calls at once are more than a replica's connections take. */
const BURST = 60;

interface Replica {
  readonly proxy: FaultyProxy;
  service: Service;
  clients: Map<string, KeywardClient>;
  /** What goes wrong with it at the moment; no two things at once. */
  trouble: Promise<void> | undefined;
}

/** Runs replicas, and breaks them. */
export class Replicas implements AsyncDisposable {
  readonly environment: Environment;
  readonly #replicas: Replica[] = [];

  private constructor(environment: Environment) {
    this.environment = environment;
  }

  /** Starts so many, with a tenant. */
  static async start(count: number, tenantId: string): Promise<Replicas> {
    const replicas = new Replicas(await newEnvironment());
    for (let replica = 0; replica < count; replica += 1) await replicas.#add();
    await replicas.client(0).createTenant({ tenantId });
    return replicas;
  }

  get count(): number {
    return this.#replicas.length;
  }

  /** A client of a replica, as the tester or with these credentials. */
  client(replica: number, as?: { readonly name: string; readonly credentials: Credentials }) {
    const { clients, service } = this.#at(replica);
    const known = clients.get(as?.name ?? '');
    if (known !== undefined) return known;
    const options = {
      ...service.connectOptions(as?.credentials),
      retries: 0,
      defaultTimeoutMs: 10_000,
    };
    const client = connectClient(options);
    clients.set(as?.name ?? '', client);
    return client;
  }

  /** Has something go wrong for a while, unless something does already. */
  break(fault: Fault, replica: number, ms: number, bystander: string): void {
    const broken = this.#at(replica);
    broken.trouble ??= this.#break(broken, fault, ms, bystander)
      .catch(() => {})
      .finally(() => {
        broken.trouble = undefined;
      });
  }

  /** Returns when nothing is wrong any more. */
  async healed(): Promise<void> {
    await Promise.all(this.#replicas.map(({ trouble }) => trouble));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.healed();
    for (const { clients, service, proxy } of this.#replicas) {
      for (const client of clients.values()) client.close();
      await service.stop();
      await proxy[Symbol.asyncDispose]();
    }
    await this.environment[Symbol.asyncDispose]();
  }

  #at(replica: number): Replica {
    return this.#replicas[replica % this.#replicas.length] as Replica;
  }

  async #add(): Promise<void> {
    const proxy = await startProxy(this.environment.urls.service);
    const service = await this.#serve(proxy);
    this.#replicas.push({ proxy, service, clients: new Map(), trouble: undefined });
  }

  #serve(proxy: FaultyProxy): Promise<Service> {
    const url = proxy.through(this.environment.urls.service);
    return startService(this.environment, { ...SETTINGS, DATABASE_URL: url });
  }

  /** Its clients are of a process that is gone. */
  #forget(broken: Replica): void {
    for (const client of broken.clients.values()) client.close();
    broken.clients = new Map();
  }

  async #break(broken: Replica, fault: Fault, ms: number, bystander: string): Promise<void> {
    const { proxy, service } = broken;
    const wait = () => new Promise((resolve) => setTimeout(resolve, ms));
    switch (fault) {
      case 'stop':
        process.kill(service.pid, 'SIGSTOP');
        await wait();
        process.kill(service.pid, 'SIGCONT');
        break;
      case 'kill':
        await service.kill();
        this.#forget(broken);
        broken.service = await this.#serve(proxy);
        this.#forget(broken);
        break;
      case 'killAgent':
        for (const pid of service.agentPids) process.kill(pid, 'SIGKILL');
        break;
      case 'cut':
        proxy.cutAll();
        break;
      case 'refuse':
        proxy.accept('refuse');
        proxy.cutAll();
        await wait();
        proxy.accept('pass');
        break;
      case 'slow':
        proxy.delayAnswers(ms);
        await wait();
        proxy.delayAnswers(0);
        break;
      case 'loseCommit':
        proxy.cutNext('before');
        break;
      case 'loseAnswer':
        proxy.cutNext('after');
        break;
      case 'lateCommit':
        proxy.cutNext('late');
        break;
      case 'overload': {
        const client = this.client(this.#replicas.indexOf(broken));
        const request = { name: bystander, plaintext: Buffer.from('x') };
        await Promise.allSettled(Array.from({ length: BURST }, () => client.encrypt(request)));
      }
    }
  }
}
