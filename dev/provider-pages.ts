/**
 * The pages of the development provider: who signs in and by which factors, and those of the device
 * flow.
 *
 * They load nothing from elsewhere and need no script.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { text } from 'node:stream/consumers';
import type Provider from 'oidc-provider';
import type { KoaContextWithOIDC } from 'oidc-provider';
import { FACTORS, PEOPLE } from './people.ts';

/** Answers a request for the page on which a person signs in. */
export async function interact(
  provider: Provider,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  try {
    const { params } = await provider.interactionDetails(request, response);
    if (request.method !== 'POST') return show(response, signInPage(params));
    const form = new URLSearchParams(await text(request));
    const person = PEOPLE.find(({ id }) => id === form.get('person'));
    const factors = form.get('factors') === 'two' ? FACTORS.two : FACTORS.one;
    const result =
      person === undefined
        ? { error: 'access_denied', error_description: 'nobody signed in' }
        : { login: { accountId: person.id, acr: factors.acr, amr: [...factors.amr] } };
    await provider.interactionFinished(request, response, result);
  } catch (error) {
    response.statusCode = 400;
    show(response, page('This sign-in is over', `<p>${escaped(String(error))}</p>`));
  }
}

/** Whom to sign in as, with one factor or with two. */
function signInPage({ acr_values: acr, max_age: age }: Readonly<Record<string, unknown>>): string {
  const wanted = [
    acr === undefined ? '' : `<p>What asks for it wants <b>${escaped(String(acr))}</b>.</p>`,
    age === undefined ? '' : `<p>The sign-in may be ${escaped(String(age))} seconds old.</p>`,
  ];
  const rows = PEOPLE.map(
    ({ id, name }) => `<form method="post"><input type="hidden" name="person" value="${id}">
      ${escaped(name)}<br><button name="factors" value="one">With a password</button>
      <button name="factors" value="two">With a second factor too</button></form>`,
  );
  const nobody = '<form method="post"><button name="person" value="">Nobody</button></form>';
  return page('Who signs in?', [...wanted, ...rows, nobody].join('\n'));
}

/** What oidc-provider shows, in plain pages. */
export const PAGES = {
  error(ctx: KoaContextWithOIDC, out: object): void {
    const rows = Object.entries(out).map(([key, value]) => `${key}: ${value}`);
    ctx.type = 'html';
    ctx.body = page('Something went wrong', `<pre>${escaped(rows.join('\n'))}</pre>`);
  },
  userCodeInput(ctx: KoaContextWithOIDC, form: string): void {
    const button = '<button type="submit" form="op.deviceInputForm">Continue</button>';
    ctx.body = page('Which code does the command show?', `${form}${button}`);
  },
  userCodeConfirm(
    ctx: KoaContextWithOIDC,
    form: string,
    _client: unknown,
    _device: unknown,
    code: string,
  ): void {
    const button = '<button type="submit" form="op.deviceConfirmForm">Yes</button>';
    const question = `Does the command show ${escaped(code)}?`;
    ctx.body = page(question, `${form}${button}`);
  },
  deviceSuccess(ctx: KoaContextWithOIDC): void {
    ctx.body = page('Signed in', '<p>You can close this page.</p>');
  },
};

function show(response: ServerResponse, html: string): void {
  response.setHeader('content-type', 'text/html; charset=utf-8');
  response.setHeader('cache-control', 'no-store');
  response.end(html);
}

function page(title: string, body: string): string {
  return `<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>${title}</title>
<h1>${title}</h1>
<p>Keyward's development environment: nobody is asked for a password here.</p>
${body}</html>`;
}

function escaped(words: string): string {
  return words.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;');
}
