/**
 * An operator's command to a token: probing it and creating the environment's objects, in an agent of its own.
 *
 * The agent is never killed: a token object half made is worse than waiting. Nothing that serves imports this.
 */

import { AgentProcess } from './agent-process.ts';
import { TokenRefused } from './agents.ts';
import { decodeReply, encodeRequest, type InitializeSettings } from './protocol.ts';
import type { TokenObject, TokenProfile } from './token-profile.ts';

/**
 * Probes the token and creates what the environment lacks in it. Doing it again changes nothing.
 * Throws {@link TokenRefused} with what the token lacks or what an operator has to mend.
 */
export function initializeToken(
  settings: InitializeSettings,
  environment: Readonly<Record<string, string>>,
): Promise<{ readonly profile: TokenProfile; readonly objects: readonly TokenObject[] }> {
  const { promise, resolve, reject } = Promise.withResolvers<{
    readonly profile: TokenProfile;
    readonly objects: readonly TokenObject[];
  }>();
  const agent = new AgentProcess({
    environment,
    onOutput: (output) => process.stderr.write(`agent: ${output}\n`),
    onExit: ({ how }) => reject(new TokenRefused(`the agent ended: ${how}`)),
  });
  agent.send({
    name: 'initializeToken',
    encode: (requestId) => encodeRequest(requestId, 'initializeToken', Number.POSITIVE_INFINITY, settings),
    attempts: 0,
    settle: (frame) => {
      const outcome = decodeReply('initializeToken', frame);
      if ('reply' in outcome) resolve(outcome.reply);
      else reject(new TokenRefused(`${outcome.failure.kind}: ${outcome.failure.detail}`));
      agent.end();
    },
    fail: reject,
  });
  return promise;
}
