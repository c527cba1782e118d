package lang_test

import (
	"fmt"
	"time"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/lang"
)

// A program that speaks one language links only that one.
func ExampleGerman() {
	german := lang.German()
	_ = polargate.Config{Language: german} // and the license page follows
	err := &polargate.Error{Op: "check", Reason: polargate.ErrRateLimited, RetryAfter: time.Minute}
	fmt.Println(german.Message(err))
	// Output: Zu viele Anfragen. Versuchen Sie es in einer Minute erneut.
}

// A program for everybody asks its user interface what language the user reads.
func ExampleFind() {
	for _, tag := range []string{"fr-CA", "es", "pt-BR", "ja", "zh-Hans", "en-GB"} {
		fmt.Println(lang.Find(tag).Message(polargate.ErrExpired))
	}
	// Output:
	// Cette licence a expiré. Renouvelez-la, puis vérifiez de nouveau.
	// Esta licencia ha caducado. Renuévela y vuelva a comprobarla.
	// Esta licença expirou. Renove-a e verifique novamente.
	// このライセンスの有効期限が切れました。ライセンスを更新してから、もう一度確認してください。
	// 此许可证已过期。请续订，然后重新检查。
	// This license has expired. Renew it, then check again.
}

// A command line on Unix takes the language of the environment.
func ExampleFromEnvironment() {
	_ = polargate.Config{Language: lang.FromEnvironment()}
}

// All of them, for a menu.
func Example() {
	for _, language := range []*polargate.Language{lang.German(), lang.French(), lang.Spanish(), lang.Portuguese(), lang.Japanese(), lang.Chinese()} {
		fmt.Printf("%-8s %s\n", language.Tag, language.Phrases["page.do.activate"])
	}
	// Output:
	// de       Aktivieren
	// fr       Activer
	// es       Activar
	// pt-BR    Ativar
	// ja       認証する
	// zh-Hans  激活
}
