/**
 * A browser without a screen: cookies, redirections, and the forms of the development provider.
 *
 * It does what a person does on the provider's pages. Knows no test.
 */
import assert from 'node:assert/strict';
import type { FACTORS } from '../../dev/people.ts';

/** Who signs in, and with how many factors. */
export interface SigningIn {
  readonly person: string;
  readonly factors?: keyof typeof FACTORS;
}

/** A page that was reached, or where a redirection leaves the provider. */
export interface Page {
  readonly url: URL;
  readonly status: number;
  readonly html: string;
}

/** What a person does with the URL that a command shows. */
export type Act = (url: string, browser: Browser) => Promise<unknown>;

/** A person at a command's standard error: does it, once, when the command shows a URL. */
export class Reader {
  readonly #act: Act;
  #acting: Promise<unknown> | undefined;

  constructor(act: Act) {
    this.#act = act;
  }

  /** Is told all that the command has written so far. */
  readonly heard = (stderr: string): void => {
    const [, url] = /^ {2}(http\S+)\n/m.exec(stderr) ?? [];
    if (url !== undefined) this.#acting ??= this.#act(url, new Browser(new URL(url).origin));
  };

  /** Resolves when it is done, and rejects with what it failed with. */
  async done(): Promise<void> {
    await this.#acting;
  }
}

/** Signs in on the provider's page, and brings its answer, or a changed one, to the command. */
export function signingIn(by: SigningIn, change = (answer: URL) => answer): Act {
  return async (url, browser) => (await fetch(change(await browser.signIn(url, by)))).text();
}

/** Holds cookies, as long as a person uses it. */
export class Browser {
  readonly #cookies = new Map<string, string>();
  readonly #origin: string;

  /** `origin` is the provider's. Redirections that leave it are not followed. */
  constructor(origin: string) {
    this.#origin = origin;
  }

  /** Signs in at an authorization URL. Returns where the provider sends the browser then. */
  async signIn(authorization: string, by: SigningIn): Promise<URL> {
    return (await this.#answer(await this.open(authorization), by)).url;
  }

  /** Confirms a device's code, and signs in. Returns the last page. */
  async confirmDevice(verification: string, by: SigningIn): Promise<Page> {
    const asked = await this.open(verification);
    const entered = await this.#submit(asked, asked.url);
    const confirmed = entered.html.includes('name="confirm"')
      ? await this.#submit(entered, entered.url)
      : entered;
    return this.#answer(confirmed, by);
  }

  /** Goes to a URL, and on where redirections lead. */
  async open(url: string | URL, form?: URLSearchParams): Promise<Page> {
    const at = new URL(url);
    if (at.origin !== this.#origin) return { url: at, status: 0, html: '' };
    const cookie = [...this.#cookies].map(([name, value]) => `${name}=${value}`).join('; ');
    const response = await fetch(at, {
      redirect: 'manual',
      headers: { cookie },
      ...(form && { method: 'POST', body: form }),
    });
    for (const set of response.headers.getSetCookie()) {
      const [, name = '', value = ''] = /^([^=]+)=([^;]*)/.exec(set) ?? [];
      if (value === '') this.#cookies.delete(name);
      else this.#cookies.set(name, value);
    }
    const location = response.headers.get('location');
    if (location !== null) return this.open(new URL(location, at));
    return { url: at, status: response.status, html: await response.text() };
  }

  async #answer(page: Page, { person, factors = 'one' }: SigningIn): Promise<Page> {
    assert.match(page.html, /Who signs in\?/, `${page.url}: ${page.html}`);
    return this.open(page.url, new URLSearchParams({ person, factors }));
  }

  /** Sends a page's form as it is. */
  #submit({ html }: Page, base: URL): Promise<Page> {
    const [, action = ''] = /<form[^>]* action="([^"]+)"/.exec(html) ?? [];
    const fields = [...html.matchAll(/<input[^>]*>/g)].map(([input]) => [
      /name="([^"]*)"/.exec(input)?.[1] ?? '',
      /value="([^"]*)"/.exec(input)?.[1] ?? '',
    ]);
    return this.open(new URL(action, base), new URLSearchParams(fields));
  }
}
