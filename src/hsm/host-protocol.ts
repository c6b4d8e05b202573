/**
 * What a server and a host of agents say to each other, in lines of JSON on two connections to the
 * host's socket for each agent.
 *
 * ```
 *  control: {"start":{"ticket","use"}} ▶   ◀ {"started":{"pid"}} or {"refused"}
 *           {"kill":true} ▶                ◀ {"ended":{"code","signal"}}
 *  stream:  {"stream":"ticket"} ▶          then frames (`protocol.ts`), with the agent itself
 * ```
 *
 * The server draws the ticket, by which the host finds the two of one agent. Nothing follows the
 * ticket on the stream before the agent is started: what the host read would not reach the agent.
 * Whoever closes the control ends the agent.
 */
import { AGENT_USES, type AgentUse } from './agent-given.ts';

/** No line is longer. */
const MAX_LINE_BYTES = 4_096;
const TICKET = /^[0-9a-f]{32}$/;

export type ServerLine =
  | { readonly start: { readonly ticket: string; readonly use: AgentUse } }
  | { readonly stream: string }
  | { readonly kill: true };

export type HostLine =
  | { readonly started: { readonly pid: number } }
  | { readonly refused: string }
  | { readonly ended: { readonly code: number | null; readonly signal: string | null } };

/** A line as it is written. */
export function lineOf(line: ServerLine | HostLine): string {
  return `${JSON.stringify(line)}\n`;
}

/** Reads a line of a server. Throws Error for what is none. */
export function parseServerLine(text: string): ServerLine {
  const line = JSON.parse(text) as Partial<Record<string, unknown>> | null;
  if (line?.['kill'] === true) return { kill: true };
  const ticket = line?.['stream'];
  if (isTicket(ticket)) return { stream: ticket };
  const start = line?.['start'] as Partial<Record<string, unknown>> | undefined;
  const use = AGENT_USES.find((each) => each === start?.['use']);
  if (use === undefined || !isTicket(start?.['ticket']))
    throw new Error('a line that asks for nothing');
  return { start: { ticket: start['ticket'], use } };
}

function isTicket(value: unknown): value is string {
  return typeof value === 'string' && TICKET.test(value);
}

/** Reads a line of a host. Throws Error for what is none. */
export function parseHostLine(text: string): HostLine {
  const line = JSON.parse(text) as HostLine | null;
  if (line === null || typeof line !== 'object') throw new Error('a line that says nothing');
  return line;
}

/**
 * Cuts what comes in into lines, and hands each on with what came after it in the same piece.
 * Throws Error for a line that is too long, and what `onLine` throws.
 */
export function lineReader(
  onLine: (line: string, hasMore: boolean) => void,
): (chunk: Buffer) => void {
  let pending = Buffer.alloc(0);
  return (chunk) => {
    pending = Buffer.concat([pending, chunk]);
    for (let end = pending.indexOf('\n'); end >= 0; end = pending.indexOf('\n')) {
      const line = pending.subarray(0, end).toString('utf8');
      pending = pending.subarray(end + 1);
      onLine(line, pending.length > 0);
    }
    if (pending.length > MAX_LINE_BYTES) throw new Error('a line that is too long');
  };
}
