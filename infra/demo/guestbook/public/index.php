<?php
// A guestbook that keeps its entries in a file beside the public folder: state that must outlive every restart.
declare(strict_types=1);

$file = dirname(__DIR__) . '/data/entries.jsonl';

function read_entries(string $file): array
{
    if (!is_file($file)) {
        return [];
    }
    $entries = [];
    foreach (file($file, FILE_IGNORE_NEW_LINES | FILE_SKIP_EMPTY_LINES) as $line) {
        $entry = json_decode($line, true);
        if (is_array($entry)) {
            $entries[] = $entry;
        }
    }
    return $entries;
}

if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    $name = mb_substr_or(trim((string) ($_POST['name'] ?? '')), 60);
    $text = mb_substr_or(trim((string) ($_POST['text'] ?? '')), 500);
    if ($name !== '' && $text !== '') {
        $entry = ['name' => $name, 'text' => $text, 'at' => gmdate('c')];
        $line = json_encode($entry, JSON_UNESCAPED_UNICODE | JSON_INVALID_UTF8_SUBSTITUTE) . "\n";
        if (file_put_contents($file, $line, FILE_APPEND | LOCK_EX) === false) {
            http_response_code(507);
            exit("The entry could not be kept.\n");
        }
    }
    header('Location: /', true, 303);
    exit;
}

// Without needing the mbstring extension: cuts at a character, not within one.
function mb_substr_or(string $text, int $length): string
{
    return preg_match('/^.{0,' . $length . '}/us', $text, $found) ? $found[0] : '';
}

function h(string $text): string
{
    return htmlspecialchars($text, ENT_QUOTES | ENT_SUBSTITUTE, 'UTF-8');
}

$entries = read_entries($file);
?>
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Guestbook</title>
<style>body { font: 1.1rem/1.5 system-ui, sans-serif; margin: 3rem auto; max-width: 40rem; padding: 0 1rem }</style>
<h1>Guestbook</h1>
<p><?= count($entries) ?> entries. This page is PHP <?= h(PHP_VERSION) ?> at <?= h($_SERVER['HTTP_HOST'] ?? '') ?>.</p>
<form method="post">
  <input name="name" maxlength="60" placeholder="Name" required>
  <input name="text" maxlength="500" placeholder="Text" required>
  <button>Sign</button>
</form>
<ul>
<?php foreach (array_reverse(array_slice($entries, -50)) as $entry): ?>
  <li><b><?= h((string) $entry['name']) ?></b>: <?= h((string) $entry['text']) ?></li>
<?php endforeach ?>
</ul>
</html>
