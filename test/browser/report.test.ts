/** A report in a real browser: it opens from disk, steps, and asks the network for nothing. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { type Browser, chromium, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

function find(): string | null {
  for (const name of ["chromium", "chromium-browser", "google-chrome"]) {
    const found = spawnSync("sh", ["-c", `command -v ${name}`], { encoding: "utf8" }).stdout.trim();
    if (found !== "") return found;
  }
  return null;
}

const executablePath = find();
if (executablePath === null) console.log("no Chromium is installed: the report is not tried in a browser");

describe.skipIf(executablePath === null)("a report", () => {
  const folder = mkdtempSync(join(tmpdir(), "racewalk-report-"));
  const file = join(folder, "report.html");
  const requests: string[] = [];
  const errors: string[] = [];
  let browser: Browser;
  let page: Page;

  beforeAll(async () => {
    const { status, stderr } = spawnSync(
      process.execPath,
      ["src/cli/main.ts", "check", "gpc-refresh", "--variant", "D4-nomb", "--html", file],
      { encoding: "utf8" },
    );
    expect(status, stderr).toBe(0);
    browser = await chromium.launch({ executablePath: executablePath ?? "", args: ["--no-sandbox", "--disable-gpu"] });
    page = await browser.newPage();
    page.on("request", (request) => requests.push(request.url()));
    page.on("pageerror", (error) => errors.push(error.message));
    await page.goto(pathToFileURL(file).href);
  }, 60_000);

  afterAll(async () => {
    await browser.close();
    rmSync(folder, { recursive: true });
  });

  test("asks the question and gives the verdicts", async () => {
    expect(await page.locator("h1").textContent()).toContain("gfn_to_pfn_cache");
    expect(await page.locator("table.verdicts tbody tr").count()).toBe(2);
    expect(await page.locator("table.verdicts tr.fails").count()).toBe(1);
  });

  test("steps through the race, and shows the store that waits in its buffer", async () => {
    const count = page.locator(".count");
    const steps = await page.locator(".step").count();
    await page.getByRole("button", { name: "first" }).click();
    expect(await count.textContent()).toBe(`step 0 of ${steps}`);
    const buffers: string[] = [];
    for (let at = 1; at <= steps; at++) {
      await page.getByRole("button", { name: "forward" }).click();
      expect(await count.textContent()).toBe(`step ${at} of ${steps}`);
      expect(await page.locator(".step.now").count()).toBe(1);
      buffers.push(...(await page.locator(".buffer").allTextContents()));
    }
    expect(buffers.some((text) => text.includes("gpc->valid = 1"))).toBe(true);
    expect(await page.locator(".verdict").textContent()).toMatch(/^isolation: /);
  });

  test("fits a phone", async () => {
    await page.setViewportSize({ width: 390, height: 800 });
    const overflow = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth");
    expect(overflow).toBeLessThanOrEqual(0);
  });

  test("prints its diagrams without the stepper", async () => {
    await page.emulateMedia({ media: "print" });
    expect(await page.locator(".stepper").isVisible()).toBe(false);
    expect(await page.locator("pre.diagram").isVisible()).toBe(true);
  });

  test("needs no network and has no error", () => {
    expect(requests.filter((url) => !url.startsWith("file:"))).toEqual([]);
    expect(errors).toEqual([]);
  });
});
