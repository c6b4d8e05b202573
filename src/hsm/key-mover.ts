/**
 * Two agents between which key versions move: one on the token that they are in, one on the token
 * that they go to.
 *
 * Invariants: what passes through here is wrapped by a transport key that neither process knows;
 * each version comes out proven and sealed by the new token, or not at all. The transport keys end
 * with the agents. Knows no PKCS#11 and no row.
 */
import type { RootKeyId, SealKeyId } from '../ids.ts';
import type { AgentStarter } from './agent-starter.ts';
import { decode, encode } from './codec.ts';
import { CommandAgent } from './command-agent.ts';
import { type SealedKeyVersion, sealedKeyVersion } from './key-version.ts';
import type { MoveSettings } from './protocol.ts';
import type { TransportKind } from './token-profile.ts';

/** A version, and the root key of the other token that it is to be under. */
export interface Move {
  readonly version: SealedKeyVersion;
  readonly rootKeyId: RootKeyId;
}

/** A token, and what starts the agent on it. */
export interface MoveEnd {
  readonly settings: MoveSettings;
  readonly starter: AgentStarter;
}

/** Moves key versions between the tokens of two agents, wrapped. */
export class KeyMover implements Disposable {
  readonly #source: CommandAgent;
  readonly #target: CommandAgent;
  #kind: TransportKind | undefined;

  private constructor(source: MoveEnd, target: MoveEnd) {
    this.#source = new CommandAgent(source.starter);
    this.#target = new CommandAgent(target.starter);
  }

  /** Opens both tokens, and verifies every object of theirs that is named. Throws TokenRefused. */
  static async open(source: MoveEnd, target: MoveEnd): Promise<KeyMover> {
    const mover = new KeyMover(source, target);
    try {
      const offer = await mover.#target.call('openMoveTarget', target.settings);
      const choice = await mover.#source.call('openMoveSource', { ...source.settings, offer });
      await mover.#target.call('acceptTransport', choice);
      mover.#kind = choice.kind;
      return mover;
    } catch (error) {
      mover[Symbol.dispose]();
      throw error;
    }
  }

  /** How versions travel. */
  get kind(): TransportKind {
    if (this.#kind === undefined) throw new Error('a mover that is not open');
    return this.#kind;
  }

  /**
   * The versions under the other token's keys; undefined for each that does not verify where it is.
   * Throws TokenRefused.
   */
  async move(
    moves: readonly Move[],
    sealKeyId: SealKeyId,
  ): Promise<(SealedKeyVersion | undefined)[]> {
    const keyVersions = moves.map(({ version }) => encode(sealedKeyVersion, version));
    const { wrapped } = await this.#source.call('exportKeyVersions', { keyVersions });
    requireAll(wrapped, keyVersions);
    const verified = moves.flatMap(({ rootKeyId }, index) => {
      const [keyVersion, material] = [keyVersions[index], wrapped[index]];
      if (keyVersion === undefined || material === undefined || material.length === 0) return [];
      return { index, rootKeyId, keyVersion, wrapped: material };
    });
    const items = verified.map(({ index: _, ...item }) => item);
    const { keyVersions: moved } = await this.#target.call('importKeyVersions', {
      sealKeyId,
      items,
    });
    requireAll(moved, items);
    const outcome: (SealedKeyVersion | undefined)[] = moves.map(() => undefined);
    for (const [place, { index }] of verified.entries())
      outcome[index] = decode(sealedKeyVersion, Buffer.from(moved[place] ?? ''));
    return outcome;
  }

  [Symbol.dispose](): void {
    this.#source[Symbol.dispose]();
    this.#target[Symbol.dispose]();
  }
}

function requireAll(answers: readonly Buffer[], asked: readonly unknown[]): void {
  if (answers.length !== asked.length) throw new Error('an agent answered for other items');
}
