<?php
// The other brand's site: shows what its application sees of the request.
declare(strict_types=1);
function h(string $text): string
{
    return htmlspecialchars($text, ENT_QUOTES | ENT_SUBSTITUTE, 'UTF-8');
}
?>
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Fjord Tours</title>
<h1>Fjord Tours</h1>
<p>Boats at nine and at noon. Host <?= h($_SERVER['HTTP_HOST'] ?? '') ?>, scheme <?= h($_SERVER['HTTP_X_FORWARDED_PROTO'] ?? 'http') ?>.</p>
</html>
