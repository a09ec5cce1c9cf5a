/** The part of domino that is used; its own declarations name the package that it was forked from. */
declare module "@mixmark-io/domino" {
  export interface DominoElement {
    readonly outerHTML: string;
    getAttribute(name: string): string | null;
    setAttribute(name: string, value: string): void;
    removeAttribute(name: string): void;
    remove(): void;
    querySelector(selector: string): DominoElement | null;
  }
  const domino: { createWindow(html: string): { readonly document: object } };
  export default domino;
}
