/**
 * An agent of its own for an operator's command: asked for one thing after another, then ended.
 *
 * Invariant: it is never killed before it has answered, since a token object half made is worse
 * than waiting. What fails is said in words for operators. Doesn't know what it is asked for.
 */
import { TokenRefused } from './agent-pool.ts';
import { AgentProcess } from './agent-process.ts';
import type { AgentStarter } from './agent-starter.ts';
import {
  decodeReply,
  encodeRequest,
  type OperationName,
  type ReplyOf,
  type RequestOf,
} from './protocol.ts';

/** How long an agent that has answered may take to end by itself. */
const GOODBYE_MS = 5_000;

/** Runs one agent for an operator's command, until it is disposed of. */
export class CommandAgent implements Disposable {
  readonly #agent: AgentProcess;
  readonly #waiting = new Set<(error: Error) => void>();
  #ended: TokenRefused | undefined;

  constructor(starter: AgentStarter) {
    this.#agent = new AgentProcess({
      starter,
      use: 'command',
      onOutput: (output) => process.stderr.write(`agent: ${output}\n`),
      onExit: ({ how }) => {
        this.#ended = new TokenRefused(`the agent ended: ${how}`);
        for (const reject of this.#waiting) reject(this.#ended);
      },
    });
  }

  /** Throws {@link TokenRefused}. */
  async call<Name extends OperationName>(
    name: Name,
    request: RequestOf<Name>,
  ): Promise<ReplyOf<Name>> {
    if (this.#ended !== undefined) throw this.#ended;
    const { promise, resolve, reject } = Promise.withResolvers<ReplyOf<Name>>();
    this.#waiting.add(reject);
    this.#agent.send({
      name,
      encode: (requestId) => encodeRequest(requestId, name, Number.POSITIVE_INFINITY, request),
      attempts: 0,
      startedAfter: 0,
      settle: (frame) => {
        const outcome = decodeReply(name, frame);
        if ('reply' in outcome) resolve(outcome.reply);
        else reject(new TokenRefused(outcome.failure.detail, outcome.failure.kind));
      },
      fail: reject,
    });
    return promise.finally(() => this.#waiting.delete(reject));
  }

  [Symbol.dispose](): void {
    this.#agent.end();
    setTimeout(() => this.#agent.dismiss(), GOODBYE_MS).unref();
  }
}
